"""The rollins that the policy writes, in AggreVaTeD and in the algorithms that mix it with PPO++."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tril_gym.agents.algorithms.rollins import RollinConfig
from tril_gym.agents.collection.actor import Actor
from tril_gym.agents.collection.best_of import BestOf, total_rewards
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.utils.config_fields import config_field


@dataclass(frozen=True, kw_only=True)
class PolicyRollinConfig(RollinConfig):
    """The hyperparameters of the actor-critic update, and of AggreVaTeD's rollins, which the policy writes."""

    allow_full_rollins: bool = config_field(
        False, "In AggreVaTeD, let a rollin be a whole text, so that the policy learns to end one", group="guide"
    )
    learn_on: Literal["rollin", "switch"] = config_field(
        "rollin", "In AggreVaTeD, learn from all tokens of a rollin, or from its last token only", group="guide"
    )
    best_of_by: Literal["reward", "value"] = config_field(
        "reward",
        "How the best of the guide's texts is chosen: reward: highest reward; value: highest value by the guide's"
        " critic, where a rollin is cut, or before the last token of a text that the guide finished",
        group="guide",
        only_with=("best_of",),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap and self.best_of > 1 and self.best_of_by == "value":
            raise ValueError(
                "overlap writes texts while the guide's critic learns, so that best_of_by must be reward, got value;"
                " leave one of the two out"
            )

    def guide_finishes(
        self, policy: Actor, guide: Actor, iteration: int, *, rollin_prob: float, **settings: Any
    ) -> Plan:
        """Return the plan of an iteration of AggreVaTeD; a group has one rollin and several rollouts of the guide."""
        return Plan.guide_finishes(
            policy,
            guide,
            rollin_prob=rollin_prob,
            learn_on=self.learn_on,
            cut=self.make_cut(allow_full=self.allow_full_rollins),
            **self._shared(iteration) | settings,
        )

    def best_by(self, learner: ActorCritic) -> BestOf | None:
        """Return how the best text of the guide is found; the learner has the guide's critic."""
        return self.make_best_of(learner.guide_values if self.best_of_by == "value" else total_rewards)
