"""PPO: the policy writes whole texts and learns from every token of them.

Schulman et al. 2017, "Proximal Policy Optimization Algorithms": https://arxiv.org/abs/1707.06347
Left out: nothing. Added, as for language models since Ziegler et al. 2019 (https://arxiv.org/abs/1909.08593): the
reward is reduced by the drift from the policy that training began with.
"""

from __future__ import annotations

from dataclasses import dataclass

from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig


@dataclass(frozen=True, kw_only=True)
class PPOConfig(ActorCriticConfig):
    """PPO reads the shared numbers and no others."""


class PPO(Agent):
    """Proximal policy optimization over tokens, with a critic of its own."""

    name = "ppo"
    config_type = PPOConfig

    def plan(self, iteration: int) -> Plan:
        """The policy writes everything."""
        return Plan(rollout=self.policy)
