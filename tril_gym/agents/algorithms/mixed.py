"""What LOLS and D2LOLS share: iterations of PPO++ and of AggreVaTeD in one run, and the rollins of both."""

from __future__ import annotations

from dataclasses import dataclass

from tril_gym.agents.algorithms.policy_rollins import PolicyRollinConfig
from tril_gym.utils.config_fields import config_field


@dataclass(frozen=True, kw_only=True)
class MixedConfig(PolicyRollinConfig):
    """The hyperparameters of the actor-critic update, and the rollins of PPO++ and AggreVaTeD."""

    aggrevated_rollin_prob: float | None = config_field(
        None,
        "Probability of a rollin in iterations of AggreVaTeD, a constant; default: that of PPO++, with its schedule",
        minimum=0,
        maximum=1,
        group="guide",
    )

    def aggrevated_rollin_prob_in(self, iteration: int) -> float:
        """Return the probability of a rollin in an iteration of AggreVaTeD, counted from 0."""
        return self.rollin_prob_in(iteration) if self.aggrevated_rollin_prob is None else self.aggrevated_rollin_prob
