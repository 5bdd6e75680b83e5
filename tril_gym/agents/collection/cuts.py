"""Where a rollin is cut: how many tokens of it stay before the other actor goes on.

A cut is a function of the rollins' lengths, one uniform each, and the iteration; the result is between 0, no rollin,
and the length, a whole text. It reads nothing else, so a text's switch does not depend on its batch.

B texts, T tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
CutKind = Literal["uniform", "uniform_from_prompt", "share", "backward", "binomial"]


class Cut(Protocol):
    """Chooses switches."""

    def __call__(self, lengths: Counts, uniforms: NDArray[np.float64], iteration: int) -> Counts:
        """Return how many tokens of each rollin are kept, 0 to its length: (B,), (B,) in [0, 1) -> (B,).

        Args:
            lengths: tokens of each rollin, EOS counted.
            uniforms: the only randomness that a cut may use.
            iteration: counted from 0.
        """


def switch_points(lengths: Counts, uniforms: NDArray[np.float64], *, allow_full: bool = False) -> Counts:
    """Return where rollins are cut: uniform on 1 … length − 1, and 0 where a text is too short to be cut.

    Args:
        lengths: (B,) tokens of each rollin, EOS counted.
        uniforms: (B,) in [0, 1).
        allow_full: uniform on 1 … length: some rollins are whole texts, without a rollout.
    """
    last = lengths if allow_full else lengths - 1
    return np.where(last < 1, 0, 1 + np.floor(uniforms * last).astype(np.int64))


@dataclass(frozen=True)
class UniformCut:
    """Uniform on 1 … length − 1, as TRIL has it.

    Args:
        from_prompt: uniform on 0 … length − 1, so that the first token is taught too: DR-PO's d_ref
            (https://arxiv.org/abs/2404.08495).
        allow_full: up to the length.
    """

    from_prompt: bool = False
    allow_full: bool = False

    def __call__(self, lengths: Counts, uniforms: NDArray[np.float64], iteration: int) -> Counts:
        """Return the switches; see `Cut`."""
        if not self.from_prompt:
            return switch_points(lengths, uniforms, allow_full=self.allow_full)
        return np.floor(uniforms * (lengths + self.allow_full)).astype(np.int64)


@dataclass(frozen=True)
class ShareCut:
    """A fixed share of each rollin, at most all but its last token."""

    share: float

    def __call__(self, lengths: Counts, uniforms: NDArray[np.float64], iteration: int) -> Counts:
        """Return the switches; see `Cut`."""
        kept = np.floor((self.share * lengths).round(9)).astype(np.int64)  # 0.29 · 100 is below 29
        return np.clip(kept, 0, np.maximum(lengths - 1, 0))


@dataclass(frozen=True)
class BackwardCut:
    """From the end to the beginning in stages, each of as many iterations: all but the last token first, 0 at last.

    Xi et al. 2024 (R3): https://arxiv.org/abs/2402.05808
    """

    iterations: int  # until rollins are empty

    def __call__(self, lengths: Counts, uniforms: NDArray[np.float64], iteration: int) -> Counts:
        """Return the switches; see `Cut`."""
        left = max(0, self.iterations - iteration)
        return np.maximum(lengths - 1, 0) * left // self.iterations  # in whole numbers: (1 − 8/10) · 5 would be below 1


@dataclass(frozen=True)
class BinomialCut:
    """Binomial(length − 1, p), with p from 1 to 0 along a cosine.

        p = ½ (1 + cos π i/n)

    Liu et al. 2025 (UFT), section 3: https://arxiv.org/abs/2505.16984
    """

    iterations: int  # n, at which p is 0

    def __call__(self, lengths: Counts, uniforms: NDArray[np.float64], iteration: int) -> Counts:
        """Return the switches by inverse CDF; see `Cut`."""
        p = 0.5 * (1 + math.cos(math.pi * min(iteration / self.iterations, 1.0)))
        trials = np.maximum(lengths - 1, 0)
        if p in (0.0, 1.0):
            return (trials * int(p)).astype(np.int64)
        counts = np.arange(int(trials.max(initial=0)) + 1)
        below = np.array([[_binomial_log(n, k, p) for k in counts.tolist()] for n in np.unique(trials).tolist()])
        cumulative = np.exp(below).cumsum(axis=1)[np.searchsorted(np.unique(trials), trials)]
        return np.minimum((cumulative <= uniforms[:, None]).sum(axis=1), trials)


def _binomial_log(n: int, k: int, p: float) -> float:
    """Return the log-probability of k successes in n trials."""
    if k > n:
        return -math.inf
    choices = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return choices + k * math.log(p) + (n - k) * math.log1p(-p)


def make_cut(kind: CutKind, *, share: float, iterations: int | None, allow_full: bool = False) -> Cut:
    """Return the cut of this name.

    Args:
        kind: one of `CutKind`.
        share: of "share".
        iterations: of "backward" and "binomial".
        allow_full: of the uniform ones.

    Raises:
        ValueError: the iterations are missing.
    """
    if kind in ("uniform", "uniform_from_prompt"):
        return UniformCut(from_prompt=kind == "uniform_from_prompt", allow_full=allow_full)
    if kind == "share":
        return ShareCut(share)
    if iterations is None:
        raise ValueError(
            f"cut is {kind}, so cut_iterations must say after how many iterations rollins are empty; give the number"
            " that you will train for"
        )
    return BackwardCut(iterations) if kind == "backward" else BinomialCut(iterations)
