"""PPO++: the guide starts a text, the policy finishes it and learns from what it finished.

Chang et al. 2023, "Learning to Generate Better Than Your LLM", algorithm 1: https://arxiv.org/abs/2306.11816
With probability β (`rollin_prob`) a text has a rollin: the guide writes a whole completion, which is cut at a uniform
place. With a good guide the policy meets states that it would seldom reach by itself.

Known property: the first token is taught only by texts without a rollin, so never with β = 1.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from tril_gym.agents.algorithms.agent import GuidedAgent
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig
from tril_gym.utils.config_fields import config_field


@dataclass(frozen=True, kw_only=True)
class PPOPlusPlusConfig(ActorCriticConfig):
    """The shared numbers, and how often the guide starts a text."""

    rollin_prob: float = config_field(0.8, "chance β that the guide starts a text", minimum=0, maximum=1, group="guide")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rollin_prob == 1.0:
            warnings.warn("with rollin_prob 1.0 the policy never learns its first token; 0.8 is usual", stacklevel=3)


class PPOPlusPlus(GuidedAgent):
    """PPO from states that a guide has brought about."""

    name = "ppo-pp"
    config_type = PPOPlusPlusConfig

    def plan(self, iteration: int) -> Plan:
        """The guide rolls in, the policy rolls out and learns from its own tokens."""
        return Plan(rollin=self.guide, rollin_prob=self.config.rollin_prob, rollout=self.policy, learn_on="rollout")
