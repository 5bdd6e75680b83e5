"""Which of several texts of a guide is the best.

B texts, E episodes, n candidates of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.utils.config_fields import check_integer

ROUNDING = 1e-5  # absolute and relative; smaller differences of scores may come from how a model's rows are batched

# (texts, the token before which each is valued, (B,)) -> (B,)
Score = Callable[[Trajectories, Tensor], Tensor]


def total_rewards(trajectories: Trajectories, ends: Tensor) -> Tensor:
    """Return what the environment paid for each whole text, (B,)."""
    return trajectories.total_rewards


@dataclass(frozen=True)
class BestOf:
    """How many texts a guide writes for each one, and which of them is the best.

    Args:
        texts: n, candidates of each text.
        score: rates candidates, the highest is taken, the first of those that are equal up to rounding: by default
            their rewards. A value function is asked for the value before the token where the candidate is cut, or
            before its last one.
    """

    texts: int
    score: Score = total_rewards

    def __post_init__(self) -> None:
        check_integer("texts", self.texts, 2)

    def rows(self, candidates: Trajectories, ends: Tensor) -> Tensor:
        """Return the row of the best of each n neighbours: (E n,) -> (E,)."""
        scores = self.score(candidates, ends).view(-1, self.texts)
        is_best = scores.isclose(scores.amax(1, keepdim=True), rtol=ROUNDING, atol=ROUNDING)
        return torch.arange(len(scores)) * self.texts + is_best.int().argmax(1)  # argmax of equal ones is the first
