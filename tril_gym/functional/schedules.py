"""Schedules: numbers as functions of the iteration, counted from 0."""

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def learning_rate_factor(iteration: int, *, schedule: Schedule, warmup: int, iterations: int | None) -> float:
    """Return the factor that the learning rate has in an iteration, in [0, 1].

    With i the iteration counted from 0, w `warmup` and n `iterations`:

        (i + 1) / (w + 1)                         while i < w, so that no iteration has a factor of 0
        1                                         constant
        (n − i) / (n − w)                         linear
        ½ (1 + cos π (i − w) / (n − w))           cosine

    From iteration n on, linear and cosine are 0. As transformers' `get_scheduler` at step i + 1, with w + 1 steps of
    warm-up and n + 1 in all.

    Args:
        iteration:  i.
        schedule:   how the factor falls after the warm-up.
        warmup:     w, iterations in which the factor rises.
        iterations: n, the iteration at which the factor reaches 0; not read by "constant".
    """
    if iteration < warmup:
        return (iteration + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    assert iterations is not None, f"{schedule} needs the number of iterations"
    assert warmup < iterations, (warmup, iterations)
    i, n, w = min(iteration, iterations), iterations, warmup
    if schedule == "linear":
        return (n - i) / (n - w)
    return 0.5 * (1.0 + math.cos(math.pi * ((i - w) / (n - w))))


def linear(iteration: int, *, start: float, end: float, iterations: int) -> float:
    """Return a number that moves linearly, from `start` in iteration 0 to `end` in iteration n and after it.

        start + (end − start) · min(i / n, 1)

    Args:
        iteration:  i, counted from 0.
        start:      the number in iteration 0.
        end:        the number from iteration n on.
        iterations: n.
    """
    return start + (end - start) * min(iteration / iterations, 1.0)
