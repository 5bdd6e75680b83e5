"""The labels of distillation: how a text comes closest to a reference, or a model's most probable token."""

import numpy as np
import pytest
import torch
from doubles import generator, toy_envs, toy_policy
from nltk.metrics.distance import edit_distance

from tril_gym.agents import Guide, Plan, TextLayout, collect
from tril_gym.agents.actors.references import ReferenceTokens
from tril_gym.agents.algorithms.dagger import DAggerConfig
from tril_gym.agents.learners.distillation import Distillation, next_tokens
from tril_gym.experiment.algorithms import agent_type
from tril_gym.utils.profiler import Timer

ALL = DAggerConfig(minibatch_size=64, learning_rate=1e-3)


def written(policy, envs):
    """Return texts of a policy, some shorter than their references and some longer."""
    texts = collect(envs, Plan(rollout=policy), episodes=24, generator=generator())
    lengths = [len(example.references[0].split()) + 1 for example in envs.unwrapped.examples]
    assert int(texts.lengths.min()) < max(lengths)
    return texts


def loss_of(policy, texts, guide, layout, config=ALL):
    plan = Plan(rollin=guide, rollin_prob=0.0, rollout=policy)
    learner = Distillation(policy, config, layout)
    return learner.update(texts, plan, generator=generator(), timer=Timer())["policy/loss"]


def by_hand(policy, texts, label_of):
    """Return the negative log-likelihood per label, one state at a time."""
    nats = []
    for row in range(len(texts)):
        ids = texts.texts.completion_ids(row)
        logprobs = policy.language_model.token_logits(texts.texts[torch.tensor([row])])[0].log_softmax(-1)
        for place in range(len(ids)):
            nats.append(-float(logprobs[place, label_of(row, place)].detach()))
    return sum(nats) / len(nats)


@pytest.mark.parametrize(
    ("written", "references", "labels"),
    [
        ([4, 5, 9, 1], [[4, 5, 9, 1]], [4, 5, 9, 1]),
        ([4, 8, 9, 1], [[4, 5, 9, 1]], [4, 5, 9, 1]),  # 8 stands for 5
        ([4, 9, 7], [[4, 5, 9, 1]], [4, 5, 9]),  # 9 stands for 5, as much as 5 is left out
        ([8, 4, 5], [[4, 5, 9, 1]], [4, 5, 5]),  # 8 is too much
        ([3, 6], [[4, 5, 1], [3, 2, 1]], [4, 2]),  # the second reference is closer
        ([4, 5, 9, 9], [[4, 1]], [4, 1, 1, 1]),  # a text that is longer should end
        ([4, 9, 8, 6, 3], [[4, 7, 9, 8, 6, 1], [4, 9, 3, 2, 5]], [4, 7, 3, 2, 1]),  # at last only 7 is missing
    ],
)
def test_next_tokens_by_hand(written, references, labels):
    assert next_tokens(written, references) == labels


def test_a_text_that_follows_the_labels_has_no_more_edits():
    """From any beginning, the text that the labels write ends as close to the reference as its beginning was."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        reference = [*rng.integers(2, 6, 6).tolist(), 1]
        text = rng.integers(2, 6, rng.integers(0, 6)).tolist()
        least = min(edit_distance(text, reference[:at]) for at in range(len(reference)))
        while not text or text[-1] != 1:
            text.append(next_tokens([*text, 0], [reference])[-1])
        assert edit_distance(text, reference) == least


def test_a_text_that_is_a_reference_is_its_own_label():
    assert next_tokens([4, 5, 4, 6, 1], [[7, 1], [4, 5, 4, 6, 1]])[1:] == [5, 4, 6, 1]


def test_references_are_labels():
    envs, policy = toy_envs(6), toy_policy(dtype=torch.float64)
    layout, texts = TextLayout.of(envs), written(policy, envs)
    tokenize = ReferenceTokens(layout)
    labels = [
        next_tokens(texts.texts.completion_ids(row), [tokenize(text) for text in info["references"]])
        for row, info in enumerate(texts.infos)
    ]
    expected = by_hand(policy, texts, lambda row, place: labels[row][place])
    own = by_hand(policy, texts, lambda row, place: texts.texts.completion_ids(row)[place])
    assert abs(own - expected) > 1e-3  # the control: the labels are not the texts' own tokens
    assert loss_of(policy, texts, Guide.references(), layout) == pytest.approx(expected, abs=1e-9)


def test_parts_of_a_minibatch_have_their_own_labels():
    envs, layout = toy_envs(6), TextLayout.of(toy_envs(6))
    whole, parts = toy_policy(dtype=torch.float64), toy_policy(dtype=torch.float64)
    texts = written(whole, envs)
    for policy, accumulation in ((whole, 1), (parts, 5)):
        config = DAggerConfig(minibatch_size=8, learning_rate=1e-3, gradient_accumulation=accumulation)
        loss_of(policy, texts, Guide.references(), layout, config)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_a_model_names_its_most_probable_token():
    envs, policy, teacher = toy_envs(6), toy_policy(dtype=torch.float64), toy_policy(seed=1, dtype=torch.float64)
    layout, texts = TextLayout.of(envs), written(policy, envs)

    def label(row, place):
        logits = teacher.language_model.token_logits(texts.texts[torch.tensor([row])])[0]
        return int(logits[place].argmax())

    expected = by_hand(policy, texts, label)  # before the policy moves
    assert loss_of(policy, texts, Guide(teacher), layout) == pytest.approx(expected, abs=1e-9)


def test_references_have_no_distributions():
    kind = agent_type("gkd")
    with pytest.raises(ValueError, match="references give tokens, and loss jsd needs distributions; use dagger"):
        kind(toy_policy(), "references", toy_envs(4), kind.config_type(check_model=False))


def test_other_guides_are_refused():
    kind, name_words = agent_type("dagger"), Guide.from_callable(lambda prompts, texts: ["w2"] * len(prompts))
    with pytest.raises(ValueError, match="must be a language model with the environment's tokenizer, or for dagger"):
        kind(toy_policy(), name_words, toy_envs(4), kind.config_type(check_model=False))
