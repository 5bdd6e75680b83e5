"""The rollins of the guided algorithms: which share of texts has one, and what the policy learns from its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tril_gym.agents.collection.actor import Actor
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig
from tril_gym.functional.schedules import linear
from tril_gym.utils.config_fields import config_field


@dataclass(frozen=True, kw_only=True)
class RollinConfig(ActorCriticConfig):
    """The hyperparameters of the actor-critic update, and the share of texts with a rollin."""

    rollin_prob: float = config_field(
        0.8,
        "Probability β of a rollin: the guide starts a text in PPO++, the policy in AggreVaTeD",
        minimum=0,
        maximum=1,
        group="guide",
    )
    final_rollin_prob: float | None = config_field(
        None,
        "Probability of a rollin at the end of rollin_iterations, to which it moves linearly; default: constant",
        minimum=0,
        maximum=1,
        group="guide",
    )
    rollin_iterations: int | None = config_field(
        None,
        "Iterations until the probability is final_rollin_prob; default: all of the run's",
        minimum=1,
        group="guide",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.final_rollin_prob is not None and self.rollin_iterations is None:
            raise ValueError(
                f"final_rollin_prob is {self.final_rollin_prob}, so rollin_iterations must say after how many"
                " iterations it is reached; give the number that you will train for"
            )

    def rollin_prob_in(self, iteration: int) -> float:
        """Return the probability of a rollin in an iteration, counted from 0."""
        if self.final_rollin_prob is None or self.rollin_iterations is None:
            return self.rollin_prob
        return linear(iteration, start=self.rollin_prob, end=self.final_rollin_prob, iterations=self.rollin_iterations)


@dataclass(frozen=True, kw_only=True)
class PolicyRollinConfig(RollinConfig):
    """The hyperparameters of the actor-critic update, and of AggreVaTeD's rollins, which the policy writes."""

    allow_full_rollins: bool = config_field(
        False, "In AggreVaTeD, let a rollin be a whole text, so that the policy learns to end one", group="guide"
    )
    learn_on: Literal["rollin", "switch"] = config_field(
        "rollin", "In AggreVaTeD, learn from all tokens of a rollin, or from its last token only", group="guide"
    )

    def guide_finishes(self, policy: Actor, guide: Actor, *, rollin_prob: float) -> Plan:
        """Return the plan of an iteration of AggreVaTeD."""
        return Plan.guide_finishes(
            policy,
            guide,
            rollin_prob=rollin_prob,
            learn_on=self.learn_on,
            allow_full_rollins=self.allow_full_rollins,
        )
