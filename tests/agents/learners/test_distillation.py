"""The labels of distillation: a reference names the token at the same place, a language model its most probable one."""

import pytest
import torch
from doubles import generator, toy_envs, toy_policy

from tril_gym.agents import Guide, Plan, TextLayout, collect
from tril_gym.agents.algorithms.dagger import DAggerConfig
from tril_gym.agents.learners.distillation import Distillation
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
    """Return the negative log-likelihood per label, one state at a time; `label_of` gives None where there is none."""
    nats = []
    for row in range(len(texts)):
        ids = texts.texts.completion_ids(row)
        logprobs = policy.language_model.token_logits(texts.texts[torch.tensor([row])])[0].log_softmax(-1)
        for place in range(len(ids)):
            label = label_of(row, place)
            if label is not None:
                nats.append(-float(logprobs[place, label].detach()))
    return sum(nats) / len(nats)


def test_references_name_the_token_at_the_same_place():
    envs, policy = toy_envs(6), toy_policy(dtype=torch.float64)
    layout, texts = TextLayout.of(envs), written(policy, envs)

    def label(row, place):
        words = texts.infos[row]["references"][0]
        ids = [*layout.tokenizer(words)["input_ids"], layout.eos_token_ids[0]][: layout.max_new_tokens]
        return ids[place] if place < len(ids) else None

    expected = by_hand(policy, texts, label)
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
    with pytest.raises(ValueError, match="references name tokens, not distributions, which loss jsd reads; use dagger"):
        kind(toy_policy(), "references", toy_envs(4), kind.config_type(check_model=False))


def test_other_guides_are_refused():
    kind, name_words = agent_type("dagger"), Guide.from_callable(lambda prompts, texts: ["w2"] * len(prompts))
    with pytest.raises(ValueError, match="must be a language model with the environment's tokenizer, or for dagger"):
        kind(toy_policy(), name_words, toy_envs(4), kind.config_type(check_model=False))
