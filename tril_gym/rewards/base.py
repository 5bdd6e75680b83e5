"""Base classes of rewards and metrics: functions from a batch of finished texts to numbers.

A reward gives one number to each text. A metric is the mean of a reward over a corpus, or one number for the corpus.

B texts, K numbers that are summed over them.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]  # (B,)
Strings = Sequence[str]
ReferenceLists = Sequence[Sequence[str]]
Extras = Sequence[Mapping[str, Any]]
Reduction = Literal["max", "mean"]  # of the scores with several references


class Score(ABC):
    """A score of each of B texts; it depends on that text alone, not on its neighbours or on earlier calls.

    Attributes:
        name: the term's name in infos and metrics.
        slow: whether scoring runs a model or a program, so that it should wait for a whole batch.
        main_process: whether the main process scores the texts of all training processes: for a score with one server,
            or one model, for all of them.
    """

    name: str
    slow: bool = False
    main_process: bool = False

    @abstractmethod
    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return (B,) float64 without changing the inputs."""

    def save(self, folder: Path) -> None:  # noqa: B027  most scores fit nothing
        """Write what was fitted into a folder, which exists; `rewards.load(name, fitted=folder)` reads it.

        By default nothing was fitted and nothing is written.
        """


class CorpusScore(ABC):
    """A corpus metric: one number for B texts together that is not a mean of scores, so it is not a reward."""

    name: str

    @abstractmethod
    def corpus(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> float:
        """Return the metric of these texts without changing the inputs."""


class PooledScore(CorpusScore):
    """A corpus metric that is a function of sums over its texts, such as corpus BLEU of n-gram counts.

    The metric of any part of the corpus is therefore cheap: `from_sums(statistics[rows].sum(0))`.
    """

    @abstractmethod
    def statistics(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return what each text adds to the sums, (B, K) float64."""

    @abstractmethod
    def from_sums(self, sums: Scores) -> float:
        """Return the metric for these sums, (K,)."""

    def is_counted(self, statistics: Scores) -> npt.NDArray[np.bool_]:
        """Return which of B texts count for the metric, (B,); bootstrap intervals leave the others out.

        By default all do; but if the metric is undefined for sums of 0, where `from_sums` returns NaN or raises
        ValueError or ArithmeticError, only the texts that add something to the sums do.

        Args:
            statistics: (B, K), what each text adds to the sums.
        """
        adds = np.asarray(statistics.any(1))
        return adds if adds.all() or not self._is_defined(np.zeros_like(statistics[0])) else np.ones_like(adds)

    def _is_defined(self, sums: Scores) -> bool:
        try:
            with np.errstate(all="ignore"):
                return not math.isnan(self.from_sums(sums))
        except (ValueError, ArithmeticError):
            return False

    def corpus(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> float:
        """Return the metric of these texts."""
        return self.from_sums(self.statistics(prompts, completions, references, extras).sum(0))


def as_numbers(values: Any, num_texts: int) -> Scores:
    """Return what a score gave for B texts as (B,) float64.

    Lists, arrays and tensors of any dtype and device are taken, with a gradient or without, also as a column (B, 1).

    Raises:
        ValueError: they are not one number per text; the message says what they are.
    """
    if isinstance(values, Iterator):
        values = list(values)
    items = [_without_gradient(item) for item in values] if isinstance(values, list | tuple) else values
    try:
        array = np.asarray(_without_gradient(items))
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"one number per text is needed, got a ragged list for {num_texts} texts") from error
    if array.shape == (num_texts, 1):
        array = array[:, 0]
    if array.dtype.kind not in "fiub" or array.shape != (num_texts,):
        is_array = array.shape and array.dtype.kind in "fiub"
        got = f"{array.dtype} of shape {array.shape}" if is_array else _kind_of(values)
        raise ValueError(f"one number per text is needed, got {got} for {num_texts} texts")
    return array.astype(np.float64)


def _without_gradient(values: Any) -> Any:
    """Return a tensor as an array, anything else as it is."""
    torch = sys.modules.get("torch")  # imported already if `values` is one of its tensors
    if torch is not None and isinstance(values, torch.Tensor):
        return values.detach().cpu().double().numpy() if values.is_floating_point() else values.detach().cpu().numpy()
    return values


def _kind_of(values: Any) -> str:
    """Return in words what is no array of numbers."""
    if values is None:
        return "None (no `return`?)"
    if isinstance(values, list | tuple):
        kinds = sorted({type(item).__name__ for item in values})
        return f"a {type(values).__name__} of {' and '.join(kinds) or 'nothing'}"
    return f"one {type(values).__name__}"


def check_batch(prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> int:
    """Return B after checking that all four inputs have B entries and that references are lists of strings."""
    lengths = {
        "prompts": len(prompts),
        "completions": len(completions),
        "references": len(references),
        "extras": len(extras),
    }
    if len(set(lengths.values())) > 1:
        raise ValueError(f"a score needs one entry of each kind per text, got {lengths}")
    for name, texts in (("prompts", prompts), ("completions", completions), ("references", references)):
        if isinstance(texts, str):
            raise ValueError(f"{name} must be a list with one entry per text, got one string")
    if any(isinstance(of_one, str) for of_one in references):
        raise ValueError("references must hold a list of texts for each completion, got a string in place of a list")
    return len(prompts)


def columns_of(
    infos: Sequence[Mapping[str, Any]],
) -> tuple[list[str], list[str], list[Sequence[str]], list[Mapping[str, Any]]]:
    """Return the inputs of a score from the infos of B ending steps: prompts, completions, references, extras.

    The extras also contain the "finish_reason", "stop" or "length", if the infos do.

    Raises:
        ValueError: an info lacks one of them, as that of an environment of your own may.
    """
    for info in infos:
        if missing := [key for key in ("prompt", "completion", "references", "extras") if key not in info]:
            raise ValueError(
                f"the last info of the text has no {missing[0]!r}; rewards read prompt, completion, references (a list,"
                " may be empty) and extras (a dictionary)"
            )
    extras = [
        info["extras"] | {"finish_reason": info["finish_reason"]} if "finish_reason" in info else info["extras"]
        for info in infos
    ]
    prompts, completions, references = ([info[key] for info in infos] for key in ("prompt", "completion", "references"))
    return prompts, completions, references, extras


def well_formed(text: str) -> str:
    """Return a text with "?" in place of lone surrogates, which tokenizers refuse."""
    return text.encode("utf-8", "replace").decode()
