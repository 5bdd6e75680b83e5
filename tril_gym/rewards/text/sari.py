r"""SARI: quality of a simplified text by the n-grams that it keeps, adds and deletes of its source.

Xu et al. 2016, "Optimizing Statistical Machine Translation for Text Simplification", section 4.1:
https://aclanthology.org/Q16-1029

For n-grams of n = 1 … 4, with source I, output O and references R, each reference counting 1 / |R|:

    keep    precision and recall of the n-grams of I ∩ O, among those of I that references keep
    add     precision and recall of the n-grams of O \ I, among those of references that are not in I
    delete  precision of the n-grams of I \ O, among those of I that references delete

    SARI = 100 · mean over n of (F1 keep + F1 add + precision delete) / 3

As in the authors' program, keeping and deleting use the counts of n-grams, adding does not, and an empty part counts 0.

Words are lower-cased and split at white space and around punctuation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tril_gym.rewards.base import Extras, ReferenceLists, Score, Scores, Strings, check_batch
from tril_gym.rewards.text.words import Ngram, ngrams_of, split_words

MAX_N = 4
SCALE = 100.0

Counts = Counter[Ngram]


class Sari(Score):
    """SARI of each completion, 0 to 100; without references 0.

    Args:
        source: the text to simplify: "prompt", or a key of the extras.
    """

    name = "sari"

    def __init__(self, *, source: str = "prompt") -> None:
        if not source:
            raise ValueError('source must be "prompt" or a key of the extras, got an empty one; the usual is "prompt"')
        self.source = source

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the SARI of each completion, (B,) in [0, 100]."""
        check_batch(prompts, completions, references, extras)
        sources = prompts if self.source == "prompt" else [self._source(extra) for extra in extras]
        rows = zip(sources, completions, references, strict=True)
        return np.array([SCALE * sari(*row) for row in rows], dtype=np.float64)

    def _source(self, extra: Mapping[str, Any]) -> str:
        if self.source not in extra:
            raise ValueError(
                f"sari has source={self.source!r}, and a text's extras have no such key but"
                f' {sorted(extra) or "none"}; name one of these, or "prompt"'
            )
        return str(extra[self.source])


def sari(source: str, output: str, references: Strings) -> float:
    """Return SARI as a fraction, 0 to 1."""
    if not references:
        return 0.0
    total = 0.0
    texts = [split_words(text) for text in (source, output, *references)]
    for n in range(1, MAX_N + 1):
        before, after, *targets = (Counter(ngrams_of(words, n)) for words in texts)
        total += _keep(before, after, targets) + _add(before, after, targets) + _delete(before, after, targets)
    return total / (3 * MAX_N)


def _keep(source: Counts, output: Counts, references: list[Counts]) -> float:
    """Return the F1 of kept n-grams; counts are those of |R| copies of source and output."""
    wanted = _times(source, len(references)) & _sum(references)
    kept = _times(source & output, len(references))
    right = kept & wanted
    precision = _mean(right[ngram] / kept[ngram] for ngram in kept)
    recall = _mean(right[ngram] / wanted[ngram] for ngram in wanted)
    return _f1(precision, recall)


def _add(source: Counts, output: Counts, references: list[Counts]) -> float:
    """Return the F1 of added n-grams, regardless of counts."""
    added = output.keys() - source.keys()
    wanted = _sum(references).keys() - source.keys()
    right = len(added & wanted)
    return _f1(right / len(added) if added else 0.0, right / len(wanted) if wanted else 0.0)


def _delete(source: Counts, output: Counts, references: list[Counts]) -> float:
    """Return the precision of deleted n-grams."""
    deleted = _times(source - output, len(references))
    right = deleted & (_times(source, len(references)) - _sum(references))
    return _mean(right[ngram] / deleted[ngram] for ngram in deleted)


def _times(counts: Counts, times: int) -> Counts:
    return Counter({ngram: count * times for ngram, count in counts.items()})


def _sum(counts: list[Counts]) -> Counts:
    total: Counts = Counter()
    for one in counts:
        total.update(one)
    return total


def _mean(shares: Iterable[float]) -> float:
    found = sorted(shares)  # a fixed order of summation, whatever the order of the n-grams
    return sum(found) / len(found) if found else 0.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
