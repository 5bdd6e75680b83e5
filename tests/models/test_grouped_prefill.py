"""Prompts of many lengths are read in groups: each text must get the logits of its own prompt."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from doubles import foreign_envs, generator, language_model, policy_of, ragged_texts

from tril_gym.agents import LMPolicy, Plan, TextLayout, collect
from tril_gym.agents.collection.generation import write_completions
from tril_gym.models import causal_decoder
from tril_gym.models.causal_decoder import group_by_length

PROMPT, NEW, TEXTS = 60, 4, 48


@pytest.fixture(scope="module")
def model():
    return language_model("gpt2", positions=PROMPT + NEW)


@pytest.fixture(scope="module")
def trajectories(model):
    envs = foreign_envs(TEXTS, max_prompt_length=PROMPT, max_new_tokens=NEW, eos_token_ids=[1])
    return collect(envs, Plan(rollout=LMPolicy(model, None)), episodes=TEXTS, generator=generator(4))


@torch.no_grad()
def logprobs_alone(model, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """Return log-probabilities by one plain pass of the model on one text, without padding."""
    logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(tokens).unsqueeze(1)).squeeze(1)


def differences(model, trajectories, shift: int = 0) -> torch.Tensor:
    """Return |log p at sampling - log p alone| of every token; `shift` pairs tokens with other texts' prompts."""
    found = []
    for row in range(TEXTS):
        prompt_row = (row + shift) % TEXTS
        prompt = trajectories.prompts[prompt_row][trajectories.is_prompt[prompt_row]].tolist()
        tokens = trajectories.tokens[row][trajectories.is_token[row]].tolist()
        written = trajectories.old_logprobs[row, : len(tokens)]
        found.append((written - logprobs_alone(model, prompt, tokens)).abs())
    return torch.cat(found)


def test_prompts_are_read_in_several_groups(trajectories):
    lengths = trajectories.is_prompt.sum(1).tolist()
    assert min(lengths) < 10
    assert max(lengths) > 50
    assert lengths != sorted(lengths)  # groups of like lengths are not the order of the batch
    assert len(group_by_length(lengths, 64)) > 1


def test_each_text_is_written_from_its_own_prompt(model, trajectories):
    assert differences(model, trajectories).max() < 1e-4


def test_another_prompt_would_be_noticed(model, trajectories):
    assert differences(model, trajectories, shift=1).mean() > 0.5


def test_groups_hold_every_text_once():
    lengths = np.random.default_rng(0).integers(1, 61, TEXTS).tolist()
    for cost in (0, 10, 100, 10_000):
        groups = group_by_length(lengths, cost)
        assert sorted(row for group in groups for row in group) == list(range(TEXTS))
        for short, long in pairwise(groups):
            assert max(lengths[row] for row in short) <= min(lengths[row] for row in long)
    assert len(group_by_length(lengths, 10_000)) == 1
    assert len(group_by_length(lengths, 0)) == 8


def test_a_cache_that_drops_columns_is_not_read_in_groups(monkeypatch):
    monkeypatch.setattr(causal_decoder, "PASS_OVERHEAD", {"cpu": 0})  # so that groups would be read
    policy = policy_of("qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1, dtype=torch.float64)
    texts, layout = ragged_texts(9), TextLayout.of(foreign_envs(1))
    draws = torch.rand((9, 8), generator=generator(1), dtype=torch.float64)
    written = write_completions(policy, texts.with_completions([[]] * 9), [{}] * 9, layout, draws)
    with torch.no_grad():
        scored = policy.token_logprobs(written.texts(), layout).logprobs
    np.testing.assert_allclose(written.logprobs, scored, atol=1e-9)
