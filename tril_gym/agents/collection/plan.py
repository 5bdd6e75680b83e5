"""Who writes which part of a text, and which part the policy learns from.

A text is written in two parts. The **rollin** goes from the prompt to the switch, the **rollout** from the switch to
the end. PPO has no rollin; in PPO++ the guide writes the rollin; in AggreVaTeD the guide writes the rollout.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tril_gym.agents.collection.actor import Actor, as_actor
from tril_gym.agents.collection.best_of import BestOf
from tril_gym.agents.collection.cuts import Cut, UniformCut
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.utils.config_fields import check_integer


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Who writes which part of a text, and which part the policy learns from."""

    rollout: Actor
    rollin: Actor | None = None  # None: the rollout starts at the prompt
    rollin_prob: float = 0.0  # chance that a text has a rollin (β)
    learn_on: Literal["rollout", "rollin", "switch"] = "rollout"
    critic: Literal["policy", "guide"] = "policy"
    cut: Cut = field(default_factory=UniformCut)  # how much of a rollin is kept
    iteration: int = 0  # counted from 0, for cuts with a schedule
    texts_per_prompt: int = 1  # texts of a group, which begin with the same prompt
    share_rollin: bool = False  # the texts of a group also have the same rollin and switch
    parts: tuple[tuple[Plan, int], ...] = ()  # further plans, each with the number of texts that it adds to each group
    is_given: bool = False  # the policy learns from the texts, but they are others': no KL is measured on them
    best_of: BestOf | None = None  # how many texts the guide writes for each one, of which the best is taken
    warm_start_critic: bool = False  # a new critic starts from the weights of the other one

    def __post_init__(self) -> None:
        if not 0.0 <= self.rollin_prob <= 1.0:
            raise ValueError(f"rollin_prob must be a probability in [0, 1], got {self.rollin_prob}")
        if self.rollin_prob > 0 and self.rollin is None:
            raise ValueError(f"rollin_prob is {self.rollin_prob} but the plan has no rollin actor to use it")
        check_integer("texts_per_prompt", self.texts_per_prompt, 1)
        for part, count in self.parts:
            check_integer("the texts of a part", count, 1)
            if part.learn_on != self.learn_on or part.parts:
                raise ValueError(
                    f"the parts of a plan must have its learn_on and no parts of their own, got {part.learn_on!r} in"
                    f" a plan with {self.learn_on!r}, and {len(part.parts)} parts"
                )
        if self.best_of is not None and self.rollin is None:
            raise ValueError("best_of needs a guide, and this plan has only one actor; give it a rollin and a rollout")
        object.__setattr__(self, "rollout", as_actor(self.rollout))
        object.__setattr__(self, "rollin", None if self.rollin is None else as_actor(self.rollin))

    @property
    def group_size(self) -> int:
        """Texts of a group, those of all parts."""
        return self.texts_per_prompt + sum(count for _, count in self.parts)

    @property
    def actors(self) -> list[Actor]:
        """The actors of all parts, each once."""
        found = [actor for plan in (self, *(part for part, _ in self.parts)) for actor in (plan.rollin, plan.rollout)]
        return list(dict.fromkeys(actor for actor in found if actor is not None))

    def remember(self, trajectories: Trajectories) -> None:
        """Show the actors the texts of an iteration that was learned from; see `Actor.remember`."""
        for actor in self.actors:
            actor.remember(trajectories)

    def metrics(self) -> dict[str, float]:
        """Return what the actors report of their work since the last call; see `Actor.metrics`."""
        return {name: value for actor in self.actors for name, value in actor.metrics().items()}

    @staticmethod
    def guide_starts(policy: Actor, guide: Actor, *, rollin_prob: float, **settings: Any) -> Plan:
        """Return the plan of PPO++: the guide writes the rollin, the policy the rollout, which it learns from.

        Args:
            policy: the policy that is trained.
            guide: writes whole texts, of which the part before the switch is kept.
            rollin_prob: chance β that a text has a rollin; the others are the policy's alone.
            settings: further fields of the plan.
        """
        return Plan(rollin=guide, rollin_prob=rollin_prob, rollout=policy, **settings)

    @staticmethod
    def guide_finishes(
        policy: Actor,
        guide: Actor,
        *,
        rollin_prob: float,
        learn_on: Literal["rollin", "switch"] = "rollin",
        **settings: Any,
    ) -> Plan:
        """Return the plan of AggreVaTeD: the policy writes the rollin and learns from it, the guide writes the rollout.

        The critic learns the value of the guide, on the rollouts.

        Args:
            policy: the policy that is trained.
            guide: finishes texts.
            rollin_prob: chance β that a text has a rollin; the others are the guide's alone.
            learn_on: whether the policy learns from all tokens of a rollin or from its last one.
            settings: further fields of the plan; `cut=UniformCut(allow_full=True)` lets a rollin be a whole text.
        """
        return Plan(
            rollin=policy,
            rollin_prob=rollin_prob,
            rollout=guide,
            learn_on=learn_on,
            critic="guide",
            **settings,
        )
