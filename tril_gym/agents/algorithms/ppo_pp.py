"""PPO++: the guide starts a text, the policy finishes it and learns from what it wrote.

Chang et al. 2023, "Learning to Generate Better Than Your LLM", algorithm 1: https://arxiv.org/abs/2306.11816
With probability β (`rollin_prob`) a text has a rollin: the guide writes a whole completion, which is cut at a uniformly
drawn token. A good guide leads to states that the policy would seldom reach by itself.

Known property: the first token is learned only from texts without a rollin, so never with β = 1.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from tril_gym.agents.algorithms.agent import GuidedAgent
from tril_gym.agents.algorithms.rollins import RollinConfig
from tril_gym.agents.collection.plan import Plan


@dataclass(frozen=True, kw_only=True)
class PPOPlusPlusConfig(RollinConfig):
    """The hyperparameters of the actor-critic update, and the share of texts that the guide starts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        is_always = self.rollin_prob == 1.0 and self.final_rollin_prob in (None, 1.0)
        if is_always and (self.cut == "uniform" or (self.cut == "share" and self.cut_share >= 0.5)):
            warnings.warn(
                "with rollin_prob 1.0 the policy never learns its first token; 0.8 is usual, or cut"
                " uniform_from_prompt",
                stacklevel=3,
            )


class PPOPlusPlus(GuidedAgent):
    """PPO from states that a guide leads to."""

    name = "ppo-pp"
    config_type = PPOPlusPlusConfig

    def plan(self, iteration: int) -> Plan:
        """Return the plan: the guide writes the rollin, the policy the rollout, which it learns from."""
        return self.config.guide_starts(self.policy, self.guide, iteration)
