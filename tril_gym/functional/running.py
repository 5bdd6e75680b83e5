"""Mean and standard deviation of numbers that arrive in batches."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class RunningStd:
    """Standard deviation of all numbers so far.

    With n numbers of mean μ and sum of squared deviations M, and a batch of m, ν and K:

        δ = ν − μ,   μ ← μ + δ m / (n + m),   M ← M + K + δ² n m / (n + m)

    Welford's algorithm for batches: Chan et al. 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances", eq. 2.1.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared deviations from the mean

    def update(self, numbers: Tensor) -> None:
        """Add numbers, (B,)."""
        assert numbers.ndim == 1, numbers.shape
        if not len(numbers):
            return
        numbers = numbers.double()
        mean, size, total = float(numbers.mean()), len(numbers), self.count + len(numbers)
        change = mean - self.mean
        self.squares += float((numbers - mean).square().sum()) + change**2 * self.count * size / total
        self.mean += change * size / total
        self.count = total

    @property
    def std(self) -> float:
        """The biased standard deviation: 0 for none, for a single one, and where they vary by rounding only."""
        std = float((self.squares / max(1, self.count)) ** 0.5)
        return std if std > 1e-12 * abs(self.mean) else 0.0

    def state_dict(self) -> dict[str, float]:
        """Return what must be saved to continue as if never stopped."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self.count, self.mean, self.squares = int(state["count"]), state["mean"], state["squares"]
