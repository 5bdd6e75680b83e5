"""ROUGE, overlap of words with the references, by the `rouge-score` package.

Lin 2004, https://aclanthology.org/W04-1013. Words are lower-cased runs of a-z and 0-9, stemmed by Porter's algorithm
if they have more than three letters; everything else separates words. All are F1, 0 to 1.

The time of ROUGE-L grows with the product of both texts' words: a text of thousands of words against another takes
seconds. The time of ROUGE-Lsum also grows with the product of their lines.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from tril_gym.rewards.base import (
    Extras,
    Reduction,
    ReferenceLists,
    Score,
    Scores,
    Strings,
    check_batch,
    check_reduction,
)

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

# References recur each time their example is drawn, so the words of this many texts are kept.
CACHED_TEXTS = 4096


class Rouge(Score):
    """Mean F1 of some kinds of ROUGE between a completion and each of its references.

    Without references, or without a common word, the score is 0.
    """

    def __init__(self, name: str, kinds: tuple[str, ...], reduction: Reduction) -> None:
        check_reduction(reduction)
        self.name, self.kinds, self.reduction = name, kinds, reduction

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the F1 of each completion, (B,) in [0, 1]."""
        check_batch(prompts, completions, references, extras)
        pairs = zip(completions, references, strict=True)
        return np.array([self._score(completion, targets) for completion, targets in pairs], dtype=np.float64)

    def _score(self, completion: str, targets: Strings) -> float:
        scorer = _scorer(self.kinds)
        found = [scorer.score(target, completion) for target in targets]
        scores = [sum(score[kind].fmeasure for kind in self.kinds) / len(self.kinds) for score in found]
        if not scores:
            return 0.0
        return max(scores) if self.reduction == "max" else sum(scores) / len(scores)


def rouge_1(*, reduction: Reduction = "max") -> Rouge:
    """Return ROUGE-1, overlap of words; `reduction` is over several references, "max" or "mean" of their scores."""
    return Rouge("rouge_1", ("rouge1",), reduction)


def rouge_2(*, reduction: Reduction = "max") -> Rouge:
    """Return ROUGE-2, overlap of pairs of words."""
    return Rouge("rouge_2", ("rouge2",), reduction)


def rouge_l(*, reduction: Reduction = "max") -> Rouge:
    """Return ROUGE-L, the longest common subsequence of words."""
    return Rouge("rouge_l", ("rougeL",), reduction)


def rouge_lsum(*, reduction: Reduction = "max") -> Rouge:
    """Return ROUGE-Lsum, the union of longest common subsequences of sentences, one sentence per line."""
    return Rouge("rouge_lsum", ("rougeLsum",), reduction)


def rouge_combined(*, reduction: Reduction = "max") -> Rouge:
    """Return the mean of ROUGE-1, ROUGE-2 and ROUGE-L for each reference, reduced over several."""
    return Rouge("rouge_combined", ("rouge1", "rouge2", "rougeL"), reduction)


@lru_cache(maxsize=8)
def _scorer(kinds: tuple[str, ...]) -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(kinds), tokenizer=_tokenizer())


@lru_cache(maxsize=1)
def _tokenizer() -> object:
    """Return the process's tokenizer, which caches recent texts."""
    from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

    plain = DefaultTokenizer(use_stemmer=True)

    class CachingTokenizer(Tokenizer):
        tokenize = staticmethod(lru_cache(maxsize=CACHED_TEXTS)(plain.tokenize))

    return CachingTokenizer()
