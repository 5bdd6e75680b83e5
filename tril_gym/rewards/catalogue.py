"""The rewards by name. Adding one: a class in a file of this package, and a row in `ROWS`.

A row names its factory as a string, imported when the reward is first loaded. The factory's keyword-only parameters are
the reward's settings. A factory that fits has two more: `train`, what to fit on, and `fitted`, a folder in which an
earlier `save` wrote what was fitted.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tril_gym.rewards.fitting import Train
from tril_gym.rewards.score import FunctionScore, Score


@dataclass(frozen=True, slots=True)
class Row:
    """One reward of the catalogue."""

    factory: str  # "module of this package:callable"
    help: str  # what it measures, and its range
    needs: str  # what it reads besides the completion


ROWS = {
    "cider_d": Row(
        "cider:CiderD",
        "CIDEr-D, tf-idf weighted agreement of n-grams with the references, 0 to 10",
        "references; train examples for the document frequencies",
    ),
    "concept_coverage": Row(
        "coverage:ConceptCoverage",
        "share of the concepts that the completion uses, in any inflection, 0 to 1",
        'extras["concepts"]',
    ),
    "rouge_l": Row(
        "overlap:RougeL",
        "ROUGE-L, F1 of the longest common subsequence of stems with a reference, 0 to 1",
        "references",
    ),
    "sentiment": Row(
        "classifier:Sentiment",
        "probability that a classifier gives to a positive text, 0 to 1",
        "a classifier's name or folder (model=), or labelled train examples to fit a small one",
    ),
}


def names() -> list[str]:
    """Return the names of all rewards, sorted."""
    return sorted(ROWS)


def describe(name: str) -> str:
    """Return one line: what a reward measures and what it needs."""
    row = _row(name)
    return f"{row.help}. Needs {row.needs}."


def load(name: str, *, train: Train | None = None, fitted: str | Path | None = None, **settings: Any) -> Score:
    """Return the reward of that name.

    Loading is cheap: fitting, and loading a model, wait for the first text that is scored.

    Args:
        name: one of `names()`.
        train: what to fit on, examples or a function that returns them; rewards that fit nothing ignore it.
        fitted: the folder that `save` of the same reward wrote; it then needs no `train`.
        settings: the reward's own.
    """
    factory = _factory(_row(name))
    known = [parameter for parameter in inspect.signature(factory).parameters if parameter not in ("train", "fitted")]
    if unknown := sorted(set(settings) - set(known)):
        its_settings = f"its settings are {', '.join(known)}" if known else "it has no settings"
        raise ValueError(f"reward {name!r} has no setting {unknown[0]!r}; {its_settings}")
    if "train" in inspect.signature(factory).parameters:
        settings |= {"train": train, "fitted": None if fitted is None else Path(fitted)}
    return factory(**settings)


def as_score(x: str | Score | Callable[..., Any], *, train: Train | None = None) -> Score:
    """Return a score for a name, a score, or a function of (prompts, completions, references, extras)."""
    if isinstance(x, str):
        return load(x, train=train)
    if isinstance(x, type) or not callable(x):
        raise TypeError(f"a reward is a name, a score or a function of a batch of texts, got {x!r}")
    return x if isinstance(x, Score) else FunctionScore(x)


def _row(name: str) -> Row:
    if name not in ROWS:
        raise ValueError(f"unknown reward {name!r}; the rewards are {', '.join(names())}")
    return ROWS[name]


def _factory(row: Row) -> Callable[..., Score]:
    module, attribute = row.factory.split(":")
    return getattr(importlib.import_module(f"tril_gym.rewards.{module}"), attribute)  # type: ignore[no-any-return]
