"""Each agent learns the toy world in seconds, and what must not learn does not."""

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


def newborn(envs: VectorEnv, kind: str = "causal") -> LMPolicy:
    return tiny_policy(envs, kind=kind, samples=0, width=32, heads=2)


def value(policy: LMPolicy, envs: VectorEnv) -> float:
    """What the policy's own texts are paid on average."""
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
    def test_it_comes_within_five_percent_of_the_best(self, kind, dense):
        envs = toy_envs(dense=dense)
        policy = newborn(envs, kind)
        assert value(policy, envs) < 0.4
        PPO(policy, envs, PPOConfig(**NUMBERS)).learn(ITERATIONS)
        assert value(policy, envs) >= 0.95 * optimal_value(ToyRules())

    def test_it_does_not_where_the_rewards_are_shuffled(self):
        envs = toy_envs()
        policy = newborn(envs)
        agent = PPO(policy, envs, PPOConfig(**NUMBERS))
        agent.learner = Shuffled(agent.learner)
        agent.learn(ITERATIONS)
        assert value(policy, envs) < 0.6

    def test_it_does_not_where_drifting_is_dear(self):
        envs, reports = toy_envs(), []
        policy = newborn(envs)
        before = value(policy, envs)
        numbers = NUMBERS | {"kl_coef": 1.0, "learning_rate": 1e-3, "normalize_advantages": False}
        PPO(policy, envs, PPOConfig(**numbers)).learn(ITERATIONS, callback=reports.append)
        assert value(policy, envs) < before + 0.15
        assert max(report.metrics["kl"] for report in reports) < 0.5

    def test_its_critic_comes_to_know_what_texts_are_paid(self):
        envs, reports = toy_envs(dense=True), []
        numbers = NUMBERS | {"learning_rate": 1e-9, "critic_learning_rate": 1e-2}  # the policy stays
        PPO(newborn(envs), envs, PPOConfig(**numbers)).learn(ITERATIONS, callback=reports.append)
        assert reports[0].metrics["critic/explained_variance"] == pytest.approx(0.0, abs=1e-6)
        last = [report.metrics["critic/explained_variance"] for report in reports[-5:]]
        assert sum(last) / 5 > 0.1  # most of the pay is chance
        assert reports[-1].metrics["critic/loss"] < 0.5 * reports[0].metrics["critic/loss"]


class TestPPOPlusPlus:
    def test_it_beats_its_start_with_the_references_as_guide(self):
        envs, reports = toy_envs(), []
        policy = newborn(envs)
        before = value(policy, envs)
        agent = PPOPlusPlus(policy, Guide.references(), envs, PPOPlusPlusConfig(**NUMBERS))
        agent.learn(ITERATIONS, callback=reports.append)
        # The guide's part of a text is good from the beginning, but it is the policy alone who writes here.
        assert reports[0].metrics["reward/mean"] > before + 0.2
        assert value(policy, envs) > 0.85 > before + 0.4

    def test_it_does_not_where_the_rewards_are_shuffled(self):
        envs = toy_envs()
        policy = newborn(envs)
        agent = PPOPlusPlus(policy, Guide.references(), envs, PPOPlusPlusConfig(**NUMBERS))
        agent.learner = Shuffled(agent.learner)
        agent.learn(ITERATIONS)
        assert value(policy, envs) < 0.6


class TestBC:
    @pytest.mark.parametrize("kind", ["causal", "seq2seq"])
    def test_it_learns_to_write_the_references(self, kind):
        # There is one right text for each prompt: its words from the last to the first.
        envs, reports = toy_envs(rule="sparse", vocab_size=8), []
        policy = newborn(envs, kind)
        assert value(policy, envs) < 0.05
        BC(policy, envs, BCConfig(learning_rate=5e-3, epochs=3)).learn(40, callback=reports.append)
        assert reports[0].metrics["policy/loss"] > 1.5  # nats per token
        assert reports[-1].metrics["policy/loss"] < 0.4
        assert value(policy, envs) > 0.4
        assert reports[0].metrics["reward/mean"] == 1.0  # what the references are paid
