"""Rewards divided by the running standard deviation of the texts' totals."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from doubles import MANY_EOS, foreign_envs, generator, policy_of
from torch import Tensor

from tril_gym.agents import Plan, PPOConfig, TextLayout, Trajectories
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.utils.profiler import Timer

NUMBERS = {"learning_rate": 1e-3, "minibatch_size": 8, "epochs": 2, "group_by_length": False}


class Run:
    """A policy with its learner, and texts that it wrote."""

    def __init__(self, **numbers: Any) -> None:
        envs = foreign_envs(16, eos_token_ids=MANY_EOS)
        self.policy = policy_of("gpt2", dtype=torch.float64)
        self.learner = ActorCritic(self.policy, PPOConfig(**NUMBERS | numbers), TextLayout.of(envs))
        self.plan = Plan(rollout=self.policy)
        self.texts = collect(envs, self.plan, episodes=16, generator=generator(1))

    def update(self, texts: Trajectories) -> dict[str, float]:
        return self.learner.update(texts, self.plan, generator=generator(2), timer=Timer())

    def paid(self, totals: list[float]) -> Trajectories:
        """The texts with these rewards in turn at their first tokens, and garbage on the padding."""
        rewards = torch.zeros_like(self.texts.rewards)
        rewards[:, 0] = torch.tensor(totals, dtype=torch.float64).repeat(16 // len(totals))
        return replace(self.texts, rewards=torch.where(self.texts.is_token, rewards, torch.nan))

    def weights(self) -> list[Tensor]:
        critic, _ = self.learner.critic("policy")
        return [*self.policy.model.state_dict().values(), *critic.state_dict().values()]


def test_the_scale_is_of_all_texts_so_far():
    run = Run(scale_rewards=True)
    # Totals 1 and 3: std 1. With as many of 4 and 8, the four have the variance 26/4 of test_running.
    assert run.update(run.paid([1.0, 3.0]))["reward/scale"] == pytest.approx(1.0)
    assert run.update(run.paid([4.0, 8.0]))["reward/scale"] == pytest.approx((26 / 4) ** 0.5)


def distance(one: Run, other: Run) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one.weights(), other.weights(), strict=True))


def test_what_is_learned_does_not_depend_on_the_unit_of_reward():
    runs = [Run(scale_rewards=scale_rewards, kl_coef=0.1) for scale_rewards in (True, True, False, False)]
    for run, unit in zip(runs, (1.0, 1000.0, 1.0, 1000.0), strict=True):
        for totals in ([1.0, 3.0], [4.0, 8.0]):
            run.update(run.paid([unit * total for total in totals]))
    assert distance(runs[0], runs[1]) < 1e-9
    assert distance(runs[2], runs[3]) > 1e-5  # control: without the scaling it does


def test_the_kl_penalty_is_subtracted_after_the_scaling():
    # γ = 1, λ = 0 and a critic that says 0: each token's advantage is its reward less the penalty, here 0.5 · 2 nats.
    run = Run(scale_rewards=True, kl_coef=0.5, gamma=1.0, gae_lambda=0.0)
    credit, made = run.learner.credit, []
    add, experience = credit.add_reference_and_values, credit.experience
    credit.add_reference_and_values = lambda *parts: replace(  # type: ignore[method-assign]
        add(*parts), ref_logprobs=run.texts.old_logprobs - 2.0
    )
    credit.experience = lambda *parts, **options: (  # type: ignore[method-assign]
        made.append(experience(*parts, **options)) or made[-1]
    )
    metrics = run.update(run.paid([10.0, 30.0]))
    assert metrics["reward/scale"] == pytest.approx(10.0)
    expected = torch.zeros_like(run.texts.rewards)
    expected[:, 0] = torch.tensor([1.0, 3.0]).repeat(8)
    torch.testing.assert_close(made[0].advantages, torch.where(run.texts.is_token, expected - 1.0, 0.0))


def test_equal_rewards_are_not_scaled():
    run = Run(scale_rewards=True)
    assert run.update(run.paid([0.1]))["reward/scale"] == 1.0


def test_off_nothing_is_scaled_or_logged():
    run = Run()
    assert "reward/scale" not in run.update(run.paid([1.0, 3.0]))
    assert run.learner.reward_std.count == 0
