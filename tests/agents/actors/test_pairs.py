"""Given pairs: both texts have the same prompt and are cut alike, after their first T tokens; else Δ is biased."""

import math

import gymnasium as gym
import pytest
import torch
from doubles import EOS, generator, toy_policy

from tril_gym.agents import Pairs, Plan, TextLayout, collect
from tril_gym.envs.toy import toy_tokenizer
from tril_gym.functional.pair_losses import dpo_loss, text_logprobs
from tril_gym.models.texts import Texts

P, T = 3, 4
PROMPT = [9, 8, 7, 6, 5]  # longer than P


def words(ids):
    return " ".join(f"w{word}" for word in ids)


def written(chosen, rejected):
    """Return a pair as two texts, and the sizes of its environment. Word i is token i."""
    row = {"prompt": words(PROMPT), "chosen": words(chosen), "rejected": words(rejected)}
    sizes = {"max_prompt_length": P, "max_new_tokens": T, "prompt_truncation_side": "left"}
    envs = gym.make_vec(
        "tril/Text-v0",
        num_envs=1,
        dataset=[row],
        tokenizer=toy_tokenizer(16),
        reward=None,
        autoreset_mode="Disabled",
        **sizes,
    )
    plan = Plan(rollout=Pairs(), texts_per_prompt=2)
    return collect(envs, plan, episodes=2, generator=generator()).texts, TextLayout.of(envs)


def margin(texts: Texts, layout: TextLayout):
    """Return Δ_w − Δ_l of two texts, for two policies that are far from each other."""
    scores = [toy_policy(seed=seed, dtype=torch.float64).token_logprobs(texts, layout).logprobs for seed in (0, 1)]
    won, lost = text_logprobs(scores[0] - scores[1], texts.is_token)
    return (won - lost).detach().view(1)


@pytest.mark.parametrize(
    ("chosen", "rejected", "kept"),
    [
        ([2, 3], [4], [[2, 3, EOS], [4, EOS]]),
        ([2, 3, 4, 5, 6, 7], [5, 4, 3, 2, 9], [[2, 3, 4, 5], [5, 4, 3, 2]]),
        ([2, 3, 4, 5, 6], [2, 3], [[2, 3, 4, 5], [2, 3, EOS]]),
        ([2, 3, 4], [2, 3, 4, 5], [[2, 3, 4, EOS], [2, 3, 4, 5]]),
    ],
    ids=["both fit", "neither fits", "one fits", "EOS of one fits"],
)
def test_both_are_cut_after_their_first_tokens(chosen, rejected, kept):
    for pair, ids in (((chosen, rejected), kept), ((rejected, chosen), kept[::-1])):
        texts, _ = written(*pair)
        assert [texts.completion_ids(row) for row in range(2)] == ids
        assert [texts.prompt_ids(row) for row in range(2)] == [PROMPT[-P:]] * 2


def test_a_pair_that_is_alike_up_to_the_limit_teaches_nothing():
    texts, layout = written([2, 3, 4, 5, 6, 7], [2, 3, 4, 5, 9])
    assert dpo_loss(margin(texts, layout), beta=0.1).item() == pytest.approx(math.log(2), abs=1e-12)
    # The control: one of them a token shorter.
    is_token = texts.is_token.clone()
    is_token[1, -1] = False
    shorter = Texts(**{name: getattr(texts, name) for name in ("prompts", "is_prompt", "tokens")}, is_token=is_token)
    assert abs(margin(shorter, layout).item()) > 0.1
