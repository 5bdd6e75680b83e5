"""What a reward is: one function from a batch of finished texts to one number each.

A metric is the mean of a reward over a corpus, or a figure of the whole corpus.

B texts, K numbers that are summed over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]  # (B,)
Texts = Sequence[str]
References = Sequence[Sequence[str]]
Extras = Sequence[Mapping[str, Any]]


@runtime_checkable
class Score(Protocol):
    """Scores B texts; a text's score depends on that text alone, never on its neighbours or on what came before.

    A score that runs a model also has `slow = True`: it is worth waiting for a whole batch. A score that was fitted
    has `save(folder)`, and `rewards.load(name, fitted=folder)` brings it back.
    """

    name: str

    def __call__(self, prompts: Texts, completions: Texts, references: References, extras: Extras) -> Scores:
        """Return (B,) float64, leaving the inputs as they are."""


@runtime_checkable
class CorpusScore(Protocol):
    """One figure of B texts together, which is no mean over them: it measures a policy, and can pay no single text."""

    name: str

    def corpus(self, prompts: Texts, completions: Texts, references: References, extras: Extras) -> float:
        """Return the figure of these texts, leaving the inputs as they are."""


@runtime_checkable
class PooledScore(CorpusScore, Protocol):
    """A figure of a corpus that follows from sums over its texts, such as corpus BLEU from counts of n-grams.

    So the figure of any part of the corpus is at hand: `of(statistics[rows].sum(0))`.
    """

    def statistics(self, prompts: Texts, completions: Texts, references: References, extras: Extras) -> Scores:
        """Return (B, K) float64: what each text adds to the sums."""

    def of(self, sums: Scores) -> float:
        """Return the figure that belongs to sums, (K,)."""


class FunctionScore:
    """A score made of a plain function of (prompts, completions, references, extras)."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name = str(getattr(function, "__name__", type(function).__name__)).strip("<>")

    def __call__(self, prompts: Texts, completions: Texts, references: References, extras: Extras) -> Scores:
        """Call the function and check that it gave one number per text."""
        num_texts = check_batch(prompts, completions, references, extras)
        scores = np.array(self.function(prompts, completions, references, extras), dtype=np.float64)
        if scores.shape != (num_texts,):
            raise ValueError(
                f"reward {self.name!r} must give one number per text, got shape {scores.shape} for {num_texts} texts"
            )
        return scores


def check_batch(prompts: Texts, completions: Texts, references: References, extras: Extras) -> int:
    """Return B, after checking that all four inputs have B entries and that references are lists of texts."""
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
    """Return what a score reads, of the infos of B last steps: prompts, completions, references, extras.

    The extras also say how the text ended: "finish_reason" is "stop" or "length".
    """
    extras = [
        info["extras"] | {"finish_reason": info["finish_reason"]} if "finish_reason" in info else info["extras"]
        for info in infos
    ]
    prompts, completions, references = ([info[key] for info in infos] for key in ("prompt", "completion", "references"))
    return prompts, completions, references, extras


def well_formed(text: str) -> str:
    """Return a text without halves of characters (lone surrogates), which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()
