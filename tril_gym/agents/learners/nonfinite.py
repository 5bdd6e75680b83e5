"""Losses and gradient norms that are not finite: they stop the training before the optimizer's step."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)


class NonFiniteError(FloatingPointError):
    """A number that the training depends on is NaN or infinite; the weights have not taken a step with it."""


class StepGuard:
    """Decides before each optimizer step of a learner whether its figures allow it.

    Args:
        skips: steps in a row that may be left out because a figure is not finite; the next one raises.

    Attributes:
        in_row: steps left out since the last one that was taken.
        skipped: steps left out since `skipped_since_last` was called.
    """

    def __init__(self, skips: int) -> None:
        self.skips, self.in_row, self.skipped = skips, 0, 0

    def allows(self, figures: Mapping[str, float]) -> bool:
        """Return whether all figures of a step, losses and gradient norms by name, are finite.

        Raises:
            NonFiniteError: one is not, and no further step may be left out.
        """
        bad = non_finite(figures)
        if not bad:
            self.in_row = 0
            return True
        self.in_row += 1
        self.skipped += 1
        if self.in_row > self.skips:
            before = f", after {self.skips} skipped steps in a row" if self.skips else ""
            raise NonFiniteError(
                f"{bad} before an optimizer step{before}; the weights have not taken it. A lower learning_rate or"
                " max_grad_norm is the usual remedy; skip_nonfinite leaves single steps out"
            )
        log.warning("%s: the optimizer step is skipped (%d of at most %d in a row)", bad, self.in_row, self.skips)
        return False

    def skipped_since_last(self) -> dict[str, float]:
        """Return the metric of skipped steps since the last call; none where none may be skipped."""
        skipped, self.skipped = self.skipped, 0
        return {"steps/skipped": skipped} if self.skips else {}

    def state_dict(self) -> dict[str, Any]:
        """Return what must be saved to continue as if never stopped."""
        return {"in_row": self.in_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.in_row = state["in_row"]


def non_finite(figures: Mapping[str, float]) -> str:
    """Return the figures that are not finite in words, such as "policy/loss is nan"; "" where all are finite."""
    return ", ".join(f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value))
