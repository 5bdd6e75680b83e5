"""Of several references each is drawn equally often, as a rollin and as a target."""

from collections import Counter

import gymnasium as gym
import pytest
import torch
from doubles import generator, policy_of
from text_doubles import SENTENCES, byte_tokenizer, text_envs, write

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import Guide, Plan, TextLayout, collect
from tril_gym.agents.actors.references import ReferenceTokens, reference_texts
from tril_gym.data.example import Example

REFERENCES = ["a dog runs.", "a cat sits.", "a man sings."]
EPISODES = 90


@pytest.fixture(scope="module")
def envs():
    examples = [Example("dog run", REFERENCES, {"concepts": ["dog", "run"]})] * 2
    return gym.make_vec("tril/CommonGen-v0", num_envs=30, dataset=examples, reward=None, autoreset_mode="Disabled")


def texts(trajectories_or_texts, tokenizer) -> Counter:
    rows = zip(trajectories_or_texts.tokens, trajectories_or_texts.is_token, strict=True)
    return Counter(tokenizer.decode(tokens[real].tolist(), skip_special_tokens=True).strip() for tokens, real in rows)


def test_references_that_write_draw_each_equally_often(envs):
    trajectories = collect(envs, Plan(rollout=Guide.references()), episodes=EPISODES, generator=generator(1))
    found = texts(trajectories, TextLayout.of(envs).tokenizer)
    assert set(found) == set(REFERENCES)
    assert all(15 <= count <= 45 for count in found.values())  # 30 expected, standard deviation 4.5


def test_targets_draw_each_reference_equally_often(envs):
    layout = TextLayout.of(envs)
    policy = policy_of(vocab_size=layout.vocab_size, positions=layout.max_prompt_length + layout.max_new_tokens)
    trajectories = collect(envs, Plan(rollout=policy), episodes=EPISODES, generator=generator(1))
    targets = reference_texts(trajectories, ReferenceTokens(layout), generator(2))
    found = texts(targets, layout.tokenizer)
    assert set(found) == set(REFERENCES)
    assert all(15 <= count <= 45 for count in found.values())
    again = reference_texts(trajectories, ReferenceTokens(layout), generator(2))
    assert torch.equal(again.tokens, targets.tokens)


def test_references_that_begin_with_the_joiner_get_no_second_one():
    examples = [Example("the dog", (" runs.",)), Example("the dog", ("runs.",))]
    envs = gym.make_vec("tril/CommonGen-v0", num_envs=2, dataset=examples, reward=None, autoreset_mode="Disabled")
    found = collect(envs, Plan(rollout=Guide.references()), episodes=8, generator=generator(1))
    assert set(found.examples.tolist()) == {0, 1}
    assert {info["completion"] for info in found.infos} == {" runs."}


def test_one_guide_of_references_serves_environments_with_different_tokenizers():
    guide, one = Guide.references(), byte_tokenizer()
    other = byte_tokenizer(sentences=[text[::-1] for text in SENTENCES])
    assert len(one) == len(other)
    for tokenizer in (one, other):
        found = write(text_envs(tokenizer), Plan(rollout=guide), episodes=4)
        assert all(info["completion"].strip() in info["references"] for info in found.infos)


def test_targets_end_at_the_first_of_several_eos_ids():
    rows = [{"prompt": "name two colours", "references": ["Red and blue. Green is the third one."]}]
    sizes = {"max_prompt_length": 16, "max_new_tokens": 40}

    def envs_of(**settings):
        settings |= sizes | {"dataset": rows, "tokenizer": "fit", "reward": None}
        return gym.make_vec("tril/Text-v0", num_envs=1, autoreset_mode="Disabled", **settings)

    tokenizer = envs_of().unwrapped.tokenizer
    envs = envs_of(eos_token_ids=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(".")])
    written = collect(envs, Plan(rollout=Guide.references()), episodes=1, generator=generator(1))
    targets = reference_texts(written, ReferenceTokens(TextLayout.of(envs)), generator(2))
    assert targets.completion_ids(0) == written.texts.completion_ids(0)
    assert tokenizer.decode(targets.completion_ids(0)).strip() == "Red and blue."
