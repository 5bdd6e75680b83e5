"""The interface between the training loop and what an agent learns with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.baselines import BaselineTexts
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.utils.profiler import Timer
from tril_gym.utils.ranks import Ranks

Metrics = dict[str, float]


class Learner(Protocol):
    """Updates a policy from trajectories, and holds all state of training but the policy's weights.

    Inherit from it for the defaults; `update`, `state_dict` and `load_state_dict` have none.
    """

    needs_rewards: ClassVar[bool] = True  # whether it learns from the environment's rewards

    @property
    def ref_policy(self) -> LMPolicy | None:
        """The frozen policy that the KL is measured to; None without one."""
        return None

    @property
    def first_policy(self) -> LMPolicy | None:
        """The policy that training began with; None without a reference policy, or where that one is renewed."""
        return self.ref_policy

    @property
    def needs_references(self) -> bool:
        """Whether every example must have references."""
        return False

    @property
    def baseline_texts(self) -> BaselineTexts:
        """Other texts whose rewards are subtracted from a text's; by default none."""
        return BaselineTexts()

    @property
    def rollout_values(self) -> tuple[int, int]:
        """Number of texts that estimate the value of a state, and of tokens between such states; (0, 1) for none."""
        return 0, 1

    @property
    def bootstraps(self) -> bool:
        """Whether a text that was cut off has the value after its end, less the baseline, in place of a reward."""
        return True

    def baseline_values(self, examples: Tensor, rewards_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what is subtracted from the rewards of texts: (B,).

        Args:
            examples: (B,) index of the example of each text.
            rewards_of: maps rows (n,) to the rewards of other texts of their examples, (n, texts).
        """
        return rewards_of(torch.arange(len(examples))).mean(1)

    def join(self, ranks: Ranks) -> None:
        """Take note of the processes that train together.

        All of them have all texts. A learner that does not override this computes on all of them in every process: its
        result is right, but no sooner.
        """

    def collection_plan(self, plan: Plan) -> Plan:
        """Return a plan that writes the same texts and may record during collection what `update` needs."""
        return plan

    def update(self, trajectories: Trajectories, plan: Plan, *, generator: torch.Generator, timer: Timer) -> Metrics:
        """Learn from the texts of one iteration and return metrics by name."""

    def state_dict(self) -> dict[str, Any]:
        """Return what must be saved to continue as if never stopped."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


def mean_metrics(steps: Iterable[Metrics]) -> Metrics:
    """Return the mean of each metric over the steps that have it."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for step in steps:
        for name, value in step.items():
            values[name].append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}
