"""Agents learn the toy environment in seconds; the controls do not."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
import torch
from doubles import generator
from gymnasium.vector import VectorEnv

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import (
    BC,
    PPO,
    BCConfig,
    Guide,
    Learner,
    LMPolicy,
    Plan,
    PPOConfig,
    PPOPlusPlus,
    PPOPlusPlusConfig,
    tiny_policy,
)
from tril_gym.agents.collection.collector import collect
from tril_gym.envs.toy import ToyRules, optimal_value

ITERATIONS = 12
NUMBERS = {"learning_rate": 1e-2, "minibatch_size": 64, "normalize_advantages": True, "kl_coef": 0.0}


def toy_envs(**settings: Any) -> VectorEnv:
    return gym.make_vec("tril/Toy-v0", num_envs=64, autoreset_mode="Disabled", **settings)


def untrained_policy(envs: VectorEnv, kind: str = "causal") -> LMPolicy:
    return tiny_policy(envs, kind=kind, samples=0, width=32, heads=2)


def value(policy: LMPolicy, envs: VectorEnv) -> float:
    """Return the mean reward of the policy's texts."""
    trajectories = collect(envs, Plan(rollout=policy), episodes=256, generator=generator(99))
    return float(trajectories.rewards.sum(1).mean())


class Shuffled(Learner):
    """A learner that gives each text the reward of another one."""

    def __init__(self, learner: Any) -> None:
        self.learner = learner

    def update(self, trajectories, plan, *, generator, timer):
        rewards = trajectories.rewards.sum(1)[torch.randperm(len(trajectories), generator=generator)]
        is_last = torch.arange(trajectories.tokens.shape[1]) == trajectories.lengths.unsqueeze(1) - 1
        shuffled = replace(trajectories, rewards=torch.where(is_last, rewards.unsqueeze(1), 0.0))
        return self.learner.update(shuffled, plan, generator=generator, timer=timer)


class TestPPO:
    @pytest.mark.parametrize(
        ("kind", "dense"),
        [("causal", False), ("causal", True), ("seq2seq", False)],
        ids=["terminal", "dense", "seq2seq"],
    )
    def test_reward_is_within_five_percent_of_the_optimum(self, kind, dense):
        envs = toy_envs(dense=dense)
        policy = untrained_policy(envs, kind)
        assert value(policy, envs) < 0.4
        PPO(policy, envs, PPOConfig(**NUMBERS)).learn(ITERATIONS)
        assert value(policy, envs) >= 0.95 * optimal_value(ToyRules())

    def test_shuffled_rewards_teach_nothing(self):
        envs = toy_envs()
        policy = untrained_policy(envs)
        agent = PPO(policy, envs, PPOConfig(**NUMBERS))
        agent.learner = Shuffled(agent.learner)
        agent.learn(ITERATIONS)
        assert value(policy, envs) < 0.6

    def test_large_kl_coef_prevents_learning(self):
        envs, reports = toy_envs(), []
        policy = untrained_policy(envs)
        before = value(policy, envs)
        numbers = NUMBERS | {"kl_coef": 1.0, "learning_rate": 1e-3, "normalize_advantages": False}
        PPO(policy, envs, PPOConfig(**numbers)).learn(ITERATIONS, callbacks=[reports.append])
        assert value(policy, envs) < before + 0.15
        assert max(report.metrics["kl"] for report in reports) < 0.5

    def test_critic_explains_the_rewards(self):
        envs, reports = toy_envs(dense=True), []
        numbers = NUMBERS | {"learning_rate": 1e-9, "critic_learning_rate": 1e-2}  # the policy does not change
        PPO(untrained_policy(envs), envs, PPOConfig(**numbers)).learn(ITERATIONS, callbacks=[reports.append])
        assert reports[0].metrics["critic/explained_variance"] == pytest.approx(0.0, abs=1e-6)
        last = [report.metrics["critic/explained_variance"] for report in reports[-5:]]
        assert sum(last) / 5 > 0.1  # most of the variance is chance
        assert reports[-1].metrics["critic/loss"] < 0.5 * reports[0].metrics["critic/loss"]


class TestPPOPlusPlus:
    def test_reward_increases_with_references_as_guide(self):
        envs, reports = toy_envs(), []
        policy = untrained_policy(envs)
        before = value(policy, envs)
        agent = PPOPlusPlus(policy, Guide.references(), envs, PPOPlusPlusConfig(**NUMBERS))
        agent.learn(ITERATIONS, callbacks=[reports.append])
        # The guide's tokens are good from the start, but here only the policy writes.
        assert reports[0].metrics["reward/mean"] > before + 0.2
        assert value(policy, envs) > 0.85 > before + 0.4

    def test_shuffled_rewards_teach_nothing(self):
        envs = toy_envs()
        policy = untrained_policy(envs)
        agent = PPOPlusPlus(policy, Guide.references(), envs, PPOPlusPlusConfig(**NUMBERS))
        agent.learner = Shuffled(agent.learner)
        agent.learn(ITERATIONS)
        assert value(policy, envs) < 0.6


class TestBC:
    @pytest.mark.parametrize("kind", ["causal", "seq2seq"])
    def test_it_learns_to_write_the_references(self, kind):
        # There is one right text for each prompt: its words from the last to the first.
        envs, reports = toy_envs(rule="sparse", vocab_size=8), []
        policy = untrained_policy(envs, kind)
        assert value(policy, envs) < 0.05
        BC(policy, envs, BCConfig(learning_rate=5e-3, epochs=3)).learn(40, callbacks=[reports.append])
        assert reports[0].metrics["policy/loss"] > 1.5  # nats per token
        assert reports[-1].metrics["policy/loss"] < 0.4
        assert value(policy, envs) > 0.4
        assert reports[0].metrics["reward/mean"] == 1.0  # the reward of the references
