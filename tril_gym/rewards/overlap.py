"""Scores of literal overlap with the references.

ROUGE-L (Lin 2004, https://aclanthology.org/W04-1013) by the `rouge-score` package: words are lower-cased runs of a-z
and 0-9, stemmed by Porter's algorithm where they have more than three letters; everything else separates words.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from tril_gym.rewards.score import Extras, References, Scores, Texts, count_texts

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

# References come back each time their example is drawn: their words are kept for so many texts.
CACHED_TEXTS = 4096


class RougeL:
    """F1 of the longest common subsequence of completion and reference, 0 to 1.

    Without references, or with no word in common, the score is 0.
    """

    name = "rouge_l"

    def __init__(self, *, over: Literal["best", "mean"] = "best") -> None:
        """Choose what several references give: the best of their scores, or the mean."""
        if over not in ("best", "mean"):
            raise ValueError(f'over must be "best" or "mean", got {over!r}; the usual choice is "best"')
        self.over = over

    def __call__(self, prompts: Texts, completions: Texts, references: References, extras: Extras) -> Scores:
        """Return the F1 of each completion, (B,) in [0, 1]."""
        count_texts(prompts, completions, references, extras)
        pairs = zip(completions, references, strict=True)
        return np.array([self._score(completion, targets) for completion, targets in pairs], dtype=np.float64)

    def _score(self, completion: str, targets: Texts) -> float:
        scorer = _scorer()
        scores = [scorer.score(target, completion)["rougeL"].fmeasure for target in targets]
        if not scores:
            return 0.0
        return max(scores) if self.over == "best" else sum(scores) / len(scores)


@lru_cache(maxsize=1)
def _scorer() -> RougeScorer:
    """Return the process's scorer, whose tokenizer remembers recent texts."""
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

    plain = DefaultTokenizer(use_stemmer=True)

    class RememberingTokenizer(Tokenizer):
        tokenize = staticmethod(lru_cache(maxsize=CACHED_TEXTS)(plain.tokenize))

    return RougeScorer(["rougeL"], tokenizer=RememberingTokenizer())
