"""Whether a run improved its policy: rewards of the same held-out examples before and after training.

The difference of the means has the standard error of a paired comparison, that of the mean of the n differences d_i:

    stderr = sqrt(Σ (d_i − mean(d))² / (n − 1)) / sqrt(n)

Examples differ in difficulty, which the differences cancel, so it is smaller than that of two independent samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any, Literal

THRESHOLD = 2.0  # standard errors that count as a change: two-sided 5 % under the normal approximation
ROUNDING = 1e-12  # relative difference of means that comes from rounding
MOST = 1e6  # more standard errors than that come from rounding: all examples changed by the same amount

Outcome = Literal["gain", "no gain", "worse", "mixed", "no reward"]

UNSCORED = "no reward was named, so nothing scores the held-out texts; --reward NAME does"


@dataclass(frozen=True)
class Change:
    """Mean reward of n examples before and after, and their paired difference."""

    before: float
    after: float
    stderr: float  # of after − before; NaN for a single example or a number that is not finite
    standard_errors: float  # (after − before) / stderr; ±inf where all examples changed by the same amount


def paired_change(before: Sequence[float], after: Sequence[float]) -> Change:
    """Compare rewards of the same n examples, (n,) and (n,)."""
    differences = [new - old for old, new in zip(before, after, strict=True)]
    is_same = math.isclose(fmean(before), fmean(after), rel_tol=ROUNDING)
    change = 0.0 if is_same else fmean(differences)
    has_spread = len(differences) > 1 and all(map(math.isfinite, differences))
    stderr = stdev(differences) / math.sqrt(len(differences)) if has_spread else math.nan
    without_spread = math.copysign(math.inf, change) if change else 0.0
    return Change(fmean(before), fmean(after), stderr, change / stderr if stderr else without_spread)


def standard_errors_of(numbers: Mapping[str, Any]) -> float:
    """Return the change of a decoding in standard errors from its numbers in `verdict_of`, where None is not finite.

    It is ±inf or 0 where all examples changed by the same amount, NaN where there is no standard error.
    """
    if numbers["standard_errors"] is not None:
        return float(numbers["standard_errors"])
    return math.copysign(math.inf, numbers["after"] - numbers["before"]) if numbers["stderr"] == 0 else math.nan


def outcome_of(standard_errors: Iterable[float]) -> Outcome:
    """Return what changes in standard errors, one for each decoding, amount to.

    "gain" if all rise by 2 or more, "worse" if any falls by more than 2, "no gain" if none rises by 2, else "mixed".
    """
    changes = list(standard_errors)
    rises = [change >= THRESHOLD for change in changes]  # False for NaN
    if all(rises):
        return "gain"
    if any(change < -THRESHOLD for change in changes):
        return "worse"
    return "mixed" if any(rises) else "no gain"


def verdict_of(
    before: Mapping[str, Any], after: Mapping[str, Any], *, seconds: float | None = None, is_scored: bool = True
) -> dict[str, Any]:
    """Compare two evaluations of the same examples.

    Args:
        before: the evaluation before training, as `Evaluation.as_json` returns it.
        after: the evaluation after training, or during it, on the first n of these examples.
        seconds: duration of the training; None leaves it out of the sentence.
        is_scored: whether a reward scored the texts; else the outcome is "no reward".

    Returns:
        "outcome", the numbers of each decoding, "kl" in nats per text (None without a reference policy), "seconds", and
        all of it as a "sentence". A number that is not finite is None.
    """
    changes = {
        decoding: paired_change(floats_of(before["rewards"][decoding][: len(rewards)]), floats_of(rewards))
        for decoding, rewards in after["rewards"].items()
    }
    outcome = outcome_of(change.standard_errors for change in changes.values()) if is_scored else "no reward"
    kl = after["metrics"]["sampled"].get("kl")
    sentence = ", ".join(
        [f"held-out {describe_changes(changes)}" if is_scored else UNSCORED]
        + ([] if kl is None else [f"KL {kl:z.1f} nats a text" if math.isfinite(kl) else "KL not finite"])
        + ([] if seconds is None else [f"in {duration(seconds)}"])
    )
    numbers = {
        decoding: {name: value if math.isfinite(value) else None for name, value in asdict(change).items()}
        for decoding, change in changes.items()
    }
    sentence = sentence if outcome in ("gain", "no reward") else f"{outcome}: {sentence}"
    kl = kl if kl is not None and math.isfinite(kl) else None
    return {"outcome": outcome} | numbers | {"kl": kl, "seconds": seconds, "sentence": sentence}


def floats_of(values: Iterable[float | None]) -> list[float]:
    """Return numbers with NaN in place of the null that JSON has for it."""
    return [math.nan if value is None else value for value in values]


def describe_changes(changes: Mapping[str, Change]) -> str:
    """Return mean rewards before and after in words, such as "greedy 0.79 → 0.95 (+6.1 standard errors)".

    A change that all examples share has no standard error: then it is written itself, "(+0.16 in every text)".
    """
    parts, unit = [], " standard errors"
    for decoding, change in changes.items():
        style = ".2f" if max(abs(change.before), abs(change.after)) >= 0.1 else ".2g"
        words = f"{change.before:{style}} → {change.after:{style}}"
        if math.isnan(change.standard_errors):
            words += " (no standard error)"
        elif abs(change.standard_errors) > MOST:
            words += f" ({change.after - change.before:+{style}} in every text)"
        else:
            words += f" ({_below_threshold(change.standard_errors):+.1f}{unit})"
            unit = ""  # the same for the others
        parts.append(f"{decoding} {words}")
    return ", ".join(parts)


def _below_threshold(standard_errors: float) -> float:
    """Return a number of standard errors; one just below the threshold as it is written without reaching it."""
    is_below = abs(standard_errors) < THRESHOLD <= abs(round(standard_errors, 1))
    return math.copysign(THRESHOLD - 0.1, standard_errors) if is_below else standard_errors


def duration(seconds: float) -> str:
    """Return a duration in words, such as "45 s", "2 min 10 s" or "1 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
