"""VinePPO: the value of a state is the mean reward of texts that the policy writes from there; there is no critic.

Kazemnejad et al. 2024, "VinePPO: Unlocking RL Potential For LLM Reasoning": https://arxiv.org/abs/2410.01679
All tokens between two states have the same advantage, the change of the value. The environment must be able to restart.

Differs from the paper: states are so many tokens apart, not steps of a derivation.
Known property: values have no bias, and an iteration writes many times as many texts as it learns from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.advantages import Advantages, rollout_advantages
from tril_gym.agents.learners.objectives import ClippedRatio, Objective
from tril_gym.agents.learners.policy_config import RewardConfig
from tril_gym.utils.config_fields import config_field


@dataclass(frozen=True, kw_only=True)
class VinePPOConfig(RewardConfig):
    """The hyperparameters of an update by rewards, and those of the rollouts."""

    rollout_texts: int = config_field(4, "Texts from each state, whose mean reward is its value", minimum=1)
    rollout_every: int = config_field(4, "Tokens between two states", minimum=1)
    clip_range: float = config_field(0.2, "Half-width ε of the ratio interval [1−ε, 1+ε]", above=0, below=1)
    epochs: int = config_field(2, "Passes over the texts of an iteration", minimum=1)

    def advantages(self) -> Advantages:
        """Return the change of the value from state to state."""
        return partial(rollout_advantages, every=self.rollout_every)

    def objective(self, layout: TextLayout) -> Objective:
        """Return PPO's clipped surrogate."""
        return ClippedRatio(clip_range=self.clip_range)

    @property
    def rollout_values(self) -> tuple[int, int]:
        """Return the number of texts from a state, and the tokens between states."""
        return self.rollout_texts, self.rollout_every


class VinePPO(Agent):
    """PPO with values by rollouts."""

    name = "vineppo"
    config_type = VinePPOConfig

    def plan(self, iteration: int) -> Plan:
        """Return the plan: the policy writes whole texts."""
        return Plan(rollout=self.policy)
