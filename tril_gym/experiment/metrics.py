"""Metrics of an evaluation: means of scores and scores of whole corpora, with bootstrap intervals.

Intervals are percentiles over resamples of the texts (Efron 1979, https://doi.org/10.1214/aos/1176344552). Metrics that
are no function of sums over texts, such as the number of different words, have none: a resample repeats texts, so it
has fewer different words.

B texts, K sums, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from tril_gym import rewards
from tril_gym.rewards.base import columns_of
from tril_gym.rewards.registry import fitted_folder
from tril_gym.utils.batched_infos import row_of
from tril_gym.utils.suggestions import with_suggestion
from tril_gym.wrappers.reward_term import terms
from tril_gym.wrappers.vector import base_attribute

LEVEL = 0.95
RESAMPLES = 1000
CHUNK = 2_000_000  # counts of resamples in memory at once

Interval = tuple[float, float]
Numbers = npt.NDArray[np.float64]
Metric = rewards.Score | rewards.CorpusScore


@dataclass(frozen=True)
class Measured:
    """Metrics of B texts."""

    values: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)  # of those metrics that have one
    per_text: dict[str, list[float]] = field(default_factory=dict)  # B scores each; scores of a corpus have none


def metrics_by_name(
    names: Sequence[str], settings: Mapping[str, Mapping[str, Any]], envs: VectorEnv, *, fitted: Path | None = None
) -> list[Metric]:
    """Return metrics by name.

    Args:
        names: names of `rewards.names()`, or module:function.
        settings: keyword arguments of metrics by name.
        envs: the environment of the evaluation. Its reward terms are reused unless `settings` has others for them; new
            metrics are fitted on its training examples.
        fitted: a folder with one sub-folder per reward, with what it was fitted to.

    Raises:
        ValueError: an unknown name or setting, or the same name twice.
    """
    if unknown := sorted(set(settings) - set(names)):
        name = with_suggestion(unknown[0], names)
        raise ValueError(f"settings for {name}, which is none of the metrics {', '.join(names) or '(none)'}")
    if len(set(names)) < len(names):
        raise ValueError(f"each metric may be named once, got {', '.join(names)}")
    scores = {term.name: term.score for term in terms(envs)}
    found: list[Metric] = []
    for name in names:
        if name in scores and name not in settings:
            found.append(scores[name])
            continue
        train, own = base_attribute(envs, "examples_to_fit"), settings.get(name, {})
        folder = None if fitted is None else fitted_folder(fitted, name, train=train, **own)
        found.append(rewards.load(name, train=train, fitted=folder, **own))
    _check_names(names, found)
    return found


def _check_names(given: Sequence[str], metrics: Sequence[Metric]) -> None:
    """Raise ValueError where two metrics have one name, under which only the second would be reported."""
    first: dict[str, str] = {}
    for name, metric in zip(given, metrics, strict=True):
        if metric.name in first:
            raise ValueError(f"{first[metric.name]} and {name} are both called {metric.name!r}; rename one of them")
        first[metric.name] = name


def check_metrics(metrics: Sequence[Metric], envs: VectorEnv) -> None:
    """Measure the references of two examples, so that errors appear before a policy writes all texts.

    Examples without references are taken only where there are no others.

    Raises:
        ValueError: a metric fails.
    """
    if not metrics:
        return
    _, infos = envs.reset(seed=0)
    rows = sorted((row_of(infos, row) for row in range(envs.num_envs)), key=lambda row: not row["references"])[:2]
    texts = [row | {"completion": (list(row["references"]) or [""])[0], "finish_reason": "stop"} for row in rows]
    for metric in metrics:
        try:
            measure([metric], texts, seed=0)
        except ImportError:
            raise  # the message says which package is missing
        except Exception as error:
            reason = str(error) if isinstance(error, RuntimeError | ValueError) else f"{type(error).__name__}: {error}"
            raise ValueError(f"metric {metric.name!r} fails: {reason}") from error


def measure(metrics: Sequence[Metric], infos: Sequence[Mapping[str, Any]], *, seed: int) -> Measured:
    """Return the metrics of B texts.

    Args:
        metrics: scores of texts and of corpora.
        infos: the info of each text's last step, with prompt, completion, references and extras.
        seed: random seed of the resamples.
    """
    columns = columns_of(infos)
    found = Measured()
    for metric in metrics:
        if isinstance(metric, rewards.Score):
            scores = np.asarray(metric(*columns), dtype=np.float64)
            found.values[metric.name] = float(scores.mean())
            found.per_text[metric.name] = scores.tolist()
            if len(scores) > 1:
                found.intervals[metric.name] = mean_interval(scores, seed=seed)
        elif isinstance(metric, rewards.PooledScore):
            statistics = metric.statistics(*columns)
            found.values[metric.name] = metric.from_sums(statistics.sum(0))
            statistics = statistics[metric.is_counted(statistics)]  # the metric of the others alone is undefined
            if len(statistics) > 1:
                found.intervals[metric.name] = interval(statistics, metric.from_sums, seed=seed)
        else:
            found.values[metric.name] = metric.corpus(*columns)
    return found


def mean_interval(scores: Numbers, *, seed: int) -> Interval:
    """Return the bootstrap interval of the mean of B scores."""
    return interval(scores[:, None], lambda sums: float(sums[0]) / len(scores), seed=seed)


def interval(statistics: Numbers, of: Callable[[Numbers], float], *, seed: int) -> Interval:
    """Return the bootstrap interval of a function of sums.

    Args:
        statistics: (B, K), what each text adds to the sums.
        of: maps sums (K,) to the metric.
        seed: random seed of the resamples; the same seed draws the same texts for every metric.

    Returns:
        The central 95 % of the metric over 1,000 resamples of B texts with replacement.
    """
    count = len(statistics)
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK // count)  # resamples at a time
    values: list[float] = []
    for start in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - start)
        times = generator.multinomial(count, np.full(count, 1.0 / count), size=size)  # (R, B): draws of each text
        values += [of(sums) for sums in times @ statistics]  # (R, K)
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
