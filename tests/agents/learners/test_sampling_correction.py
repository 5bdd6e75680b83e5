"""Texts that another distribution sampled than the one that is trained: scored again and weighted."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from doubles import MANY_EOS, foreign_envs, generator, policy_of

from tril_gym.agents import Plan, PPOConfig, TextLayout, collect
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.utils.profiler import Timer

NUMBERS = {"learning_rate": 1e-3, "minibatch_size": 8, "epochs": 2, "group_by_length": False, "kl_coef": 0.1}


def update(shift=None, **numbers: Any):
    """Return the weights after an update and its metrics; `shift` changes what the sampler says of its tokens."""
    envs = foreign_envs(16, eos_token_ids=MANY_EOS)
    policy = policy_of("gpt2", dtype=torch.float64)
    learner = ActorCritic(policy, PPOConfig(**NUMBERS | numbers), TextLayout.of(envs))
    plan = Plan(rollout=policy)
    texts = collect(envs, plan, episodes=16, generator=generator(1))
    rewards = torch.zeros_like(texts.rewards)
    rewards[:, 0] = torch.linspace(-1, 1, 16, dtype=torch.float64)
    sampled = texts.old_logprobs if shift is None else texts.old_logprobs + shift(texts)
    texts = replace(texts, rewards=rewards, old_logprobs=sampled)
    metrics = learner.update(texts, plan, generator=generator(2), timer=Timer())
    return torch.cat([weights.flatten() for weights in policy.parameters()]).detach(), metrics


def distance(one, other):
    return float((one[0] - other[0]).abs().max())


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_no_correction_where_the_policy_sampled(level):
    plain, corrected = update(), update(sampling_correction=level)
    assert distance(plain, corrected) < 1e-9
    assert corrected[1]["policy/importance_share"] == pytest.approx(1.0)
    assert "policy/importance_share" not in plain[1]


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_weights_scale_the_step_of_the_policy(level):
    # A sampler that says twice the probability of every first token: weight 1/2 there, or for the whole text.
    def twice(texts):
        first = torch.zeros_like(texts.old_logprobs)
        first[:, 0] = torch.log(torch.tensor(2.0))
        return first

    plain, corrected = update(), update(twice, sampling_correction=level)
    assert distance(plain, corrected) > 1e-5
    share = corrected[1]["policy/importance_share"]
    assert share < 1.0 if level == "token" else share == pytest.approx(1.0)
    assert corrected[1]["policy/sampling_error_max"] == pytest.approx(0.6931, abs=1e-4)
    assert corrected[1]["policy/ratio_error"] < 1e-9  # ρ begins at π_old, not at the sampler
    assert corrected[1]["kl"] == pytest.approx(plain[1]["kl"])


def test_unknown_log_probabilities_are_scored():
    def unknown(texts):
        return torch.full_like(texts.old_logprobs, float("nan"))

    plain, corrected = update(), update(unknown, sampling_correction="token")
    assert distance(plain, corrected) < 1e-9
    assert corrected[1]["policy/sampling_error_mean"] == 0.0


def test_the_cap_bounds_what_one_token_counts():
    def rare(texts):  # the sampler says that it drew what it hardly ever draws
        return torch.full_like(texts.old_logprobs, -20.0)

    capped = update(rare, sampling_correction="token", sampling_cap=1.0)
    assert distance(update(), capped) < 1e-9
    assert distance(update(), update(rare, sampling_correction="token", sampling_cap=50.0)) > 1e-6


@pytest.mark.parametrize("loss", ["clip", "apa", "awr"])
def test_a_weight_of_one_half_halves_the_gradient_of_every_loss(loss):
    envs, policy = foreign_envs(8, eos_token_ids=MANY_EOS), policy_of("gpt2", dtype=torch.float64)
    numbers = NUMBERS | {"kl_coef": 0.0, "policy_loss": loss, "sampling_correction": "token"}
    learner = ActorCritic(policy, PPOConfig(**numbers), TextLayout.of(envs))
    texts = collect(envs, Plan(rollout=policy), episodes=8, generator=generator(1))
    texts = replace(texts, rewards=torch.where(texts.is_end, torch.arange(8.0).unsqueeze(1).double(), 0.0))
    critic, _ = learner.critic("policy")
    experience = learner.credit.experience(learner.credit.add_reference_and_values(texts, critic), kl_coef=0.0)

    def gradient(weights):
        learner.epochs.gradients(replace(experience, weights=weights), critic)
        return torch.cat([parameter.grad.flatten() for parameter in policy.parameters()])

    plain = gradient(None)
    assert plain.norm() > 1e-6
    assert torch.allclose(gradient(torch.full_like(experience.advantages, 0.5)), plain / 2, atol=1e-12)
