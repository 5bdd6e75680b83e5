"""What LOLS and D2LOLS share: iterations of PPO++ and of AggreVaTeD in one run, and the rollins of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tril_gym.agents.collection.actor import Actor
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig
from tril_gym.utils.config_fields import config_field


@dataclass(frozen=True, kw_only=True)
class MixedConfig(ActorCriticConfig):
    """The hyperparameters of the actor-critic update, and the rollins of PPO++ and AggreVaTeD."""

    rollin_prob: float = config_field(
        0.8,
        "Probability β of a rollin, which the guide writes in iterations of PPO++",
        minimum=0,
        maximum=1,
        group="guide",
    )
    aggrevated_rollin_prob: float | None = config_field(
        None,
        "Probability of a rollin in iterations of AggreVaTeD, which the policy writes; default: rollin_prob",
        minimum=0,
        maximum=1,
        group="guide",
    )
    allow_full_rollins: bool = config_field(
        False, "In AggreVaTeD, let a rollin be a whole text, so that the policy learns to end one", group="guide"
    )
    learn_on: Literal["rollin", "switch"] = config_field(
        "rollin", "In AggreVaTeD, learn from all tokens of a rollin, or from its last token only", group="guide"
    )

    def guide_finishes(self, policy: Actor, guide: Actor) -> Plan:
        """Return the plan of an iteration of AggreVaTeD."""
        return Plan.guide_finishes(
            policy,
            guide,
            rollin_prob=self.rollin_prob if self.aggrevated_rollin_prob is None else self.aggrevated_rollin_prob,
            learn_on=self.learn_on,
            allow_full_rollins=self.allow_full_rollins,
        )
