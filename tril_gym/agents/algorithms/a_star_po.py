"""A*-PO: each prompt's optimal value is estimated once from texts of π_ref; log-ratios are regressed onto r − V*.

Brantley et al. 2025, "Accelerating RL for LLM Reasoning with Optimal Advantage Regression":
https://arxiv.org/abs/2505.20686
V*(x) = β₁ log mean e^{r/β₁} over texts of π_ref; then one text of the policy a prompt, and the loss
(β₂ (log π − log π_ref) − (r − V*))². Values are kept by example, so that equal prompts of different examples differ.

Known property: with β₁ = β₂ and many texts the loss is 0 exactly at π_ref e^{r/β}/Z.
"""

from __future__ import annotations

from dataclasses import dataclass

from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.collection.baselines import BaselineTexts
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.objectives import Objective, TextObjective
from tril_gym.agents.learners.policy_config import PolicyConfig
from tril_gym.utils.config_fields import config_field


@dataclass(frozen=True, kw_only=True)
class AStarPOConfig(PolicyConfig):
    """The hyperparameters of an update of the policy, and those of its values."""

    value_beta: float = config_field(0.5, "β₁ of the optimal value, reward per nat", above=0)
    value_texts: int = config_field(
        8, "Texts of the reference policy that estimate it, once for each example", minimum=1
    )
    beta: float = config_field(1e-3, "β₂ of the regression, reward per nat", above=0)
    epochs: int = config_field(1, "Passes over the texts of an iteration", minimum=1)

    def objective(self, layout: TextLayout) -> Objective:
        """Return the regression."""
        return TextObjective(loss="a_star", beta=self.beta)

    @property
    def baseline_texts(self) -> BaselineTexts:
        """Return the reference policy's texts of the same prompt, for V*."""
        return BaselineTexts("prompt", self.value_texts, self.value_beta)


class AStarPO(Agent):
    """Regression to the optimal advantage."""

    name = "a-star-po"
    config_type = AStarPOConfig

    def plan(self, iteration: int) -> Plan:
        """Return the plan: the policy writes whole texts."""
        return Plan(rollout=self.policy)
