"""The rollins of the guided algorithms: which share of texts has one, and what the policy learns from its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tril_gym.agents.collection.actor import Actor
from tril_gym.agents.collection.best_of import BestOf, Score, total_rewards
from tril_gym.agents.collection.cuts import Cut, make_cut
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
        only_with=("final_rollin_prob",),
    )

    cut: Literal["uniform", "uniform_from_prompt", "share", "backward", "binomial"] = config_field(
        "uniform",
        "Where rollins are cut: uniform: after a uniformly drawn token; uniform_from_prompt: the same, or before the"
        " first one; share: at cut_share; backward: from the end to the beginning over the iterations; binomial: at a"
        " binomially drawn token, with a share that falls from 1 to 0",
        group="guide",
    )
    cut_share: float = config_field(
        0.5,
        "Share of a rollin that is kept with cut share",
        minimum=0,
        maximum=1,
        group="guide",
        only_with=("cut", "share"),
    )
    cut_iterations: int | None = config_field(
        None,
        "Iterations until rollins are empty with cut backward and binomial; default: all of the run's",
        minimum=1,
        group="guide",
        only_with=("cut", "backward", "binomial"),
    )
    texts_per_prompt: int = config_field(
        1, "Texts of a group, which begin with the same prompt and rollin", minimum=1, group="guide"
    )
    best_of: int = config_field(
        1,
        "Texts that the guide writes for each one that it begins or finishes; the best is taken",
        minimum=1,
        group="guide",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.make_cut()
        if self.final_rollin_prob is not None and self.rollin_iterations is None:
            raise ValueError(
                f"final_rollin_prob is {self.final_rollin_prob}, so rollin_iterations must say after how many"
                " iterations it is reached; give the number that you will train for"
            )

    def make_cut(self, *, allow_full: bool = False) -> Cut:
        """Return how much of a rollin is kept."""
        return make_cut(self.cut, share=self.cut_share, iterations=self.cut_iterations, allow_full=allow_full)

    def guide_starts(self, policy: Actor, guide: Actor, iteration: int, **settings: Any) -> Plan:
        """Return the plan of an iteration of PPO++; `settings` are further fields of it."""
        return Plan.guide_starts(
            policy,
            guide,
            rollin_prob=self.rollin_prob_in(iteration),
            cut=self.make_cut(),
            **self._shared(iteration) | settings,
        )

    def _shared(self, iteration: int) -> dict[str, Any]:
        """Return the fields of a plan that are the same for all rollins."""
        size = self.texts_per_prompt
        groups = {"iteration": iteration, "texts_per_prompt": size, "share_rollin": size > 1}
        return groups | {"best_of": self.make_best_of()}

    def make_best_of(self, score: Score = total_rewards) -> BestOf | None:
        """Return how the best of several texts of the guide is found, if it writes several."""
        return None if self.best_of == 1 else BestOf(self.best_of, score)

    def rollin_prob_in(self, iteration: int) -> float:
        """Return the probability of a rollin in an iteration, counted from 0."""
        if self.final_rollin_prob is None or self.rollin_iterations is None:
            return self.rollin_prob
        return linear(iteration, start=self.rollin_prob, end=self.final_rollin_prob, iterations=self.rollin_iterations)
