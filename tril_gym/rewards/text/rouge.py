"""ROUGE, overlap of words with the references, by the `rouge-score` package.

Lin 2004, https://aclanthology.org/W04-1013. Words are lower-cased runs of a-z and 0-9, stemmed by Porter's algorithm
if they have more than three letters; everything else separates words, so texts in other scripts have none. With
tokenizer="unicode" words are runs of letters and digits of any script, and each Chinese or Japanese character is one;
texts of ASCII have the same score. All are F1, 0 to 1.

The time of ROUGE-L grows with the product of both texts' words: a text of thousands of words against another takes
seconds. The time of ROUGE-Lsum also grows with the product of their lines.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from tril_gym.rewards.base import Extras, Reduction, ReferenceLists, Score, Scores, Strings, check_batch
from tril_gym.utils.config_fields import check_choice

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

logger = logging.getLogger(__name__)

Words = Literal["ascii", "unicode"]
ALONE = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")  # Han, kana

# References recur each time their example is drawn, so the words of this many texts are kept.
CACHED_TEXTS = 4096


class Rouge(Score):
    """Mean F1 of some kinds of ROUGE between a completion and each of its references.

    Without references, or without a common word, the score is 0.
    """

    def __init__(self, name: str, kinds: tuple[str, ...], reduction: Reduction, tokenizer: Words) -> None:
        check_choice("reduction", reduction, get_args(Reduction), usual="max")
        check_choice("tokenizer", tokenizer, get_args(Words), usual="ascii")
        self.name, self.kinds, self.reduction, self.tokenizer = name, kinds, reduction, tokenizer

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the F1 of each completion, (B,) in [0, 1]."""
        check_batch(prompts, completions, references, extras)
        pairs = zip(completions, references, strict=True)
        return np.array([self._score(completion, targets) for completion, targets in pairs], dtype=np.float64)

    def _score(self, completion: str, targets: Strings) -> float:
        if self.tokenizer == "ascii" and any(map(is_mostly_unread, targets)):
            _warn_once(self.name)
        scorer = _scorer(self.kinds, self.tokenizer)
        found = [scorer.score(target, completion) for target in targets]
        scores = [sum(score[kind].fmeasure for kind in self.kinds) / len(self.kinds) for score in found]
        if not scores:
            return 0.0
        return max(scores) if self.reduction == "max" else sum(scores) / len(scores)


def rouge_1(*, reduction: Reduction = "max", tokenizer: Words = "ascii") -> Rouge:
    """Return ROUGE-1, overlap of words.

    Args:
        reduction: over several references: "max" or "mean" of their scores.
        tokenizer: "ascii" reads the letters a-z and digits, "unicode" every script.
    """
    return Rouge("rouge_1", ("rouge1",), reduction, tokenizer)


def rouge_2(*, reduction: Reduction = "max", tokenizer: Words = "ascii") -> Rouge:
    """Return ROUGE-2, overlap of pairs of words; settings as for `rouge_1`."""
    return Rouge("rouge_2", ("rouge2",), reduction, tokenizer)


def rouge_l(*, reduction: Reduction = "max", tokenizer: Words = "ascii") -> Rouge:
    """Return ROUGE-L, the longest common subsequence of words; settings as for `rouge_1`."""
    return Rouge("rouge_l", ("rougeL",), reduction, tokenizer)


def rouge_lsum(*, reduction: Reduction = "max", tokenizer: Words = "ascii") -> Rouge:
    """Return ROUGE-Lsum, the union of longest common subsequences of sentences, one sentence per line.

    Settings as for `rouge_1`.
    """
    return Rouge("rouge_lsum", ("rougeLsum",), reduction, tokenizer)


def rouge_combined(*, reduction: Reduction = "max", tokenizer: Words = "ascii") -> Rouge:
    """Return the mean of ROUGE-1, ROUGE-2 and ROUGE-L for each reference; settings as for `rouge_1`."""
    return Rouge("rouge_combined", ("rouge1", "rouge2", "rougeL"), reduction, tokenizer)


def is_mostly_unread(text: str) -> bool:
    """Return whether most letters of a text are none of a-z, which the usual tokenizer reads."""
    if text.isascii():
        return False
    letters = [letter.isascii() for letter in text if letter.isalpha()]
    return sum(letters) * 2 < len(letters)


def unicode_words(text: str) -> list[str]:
    """Return the lower-cased words of a text in any script; Chinese and Japanese characters are words of their own."""
    text = unicodedata.normalize("NFC", text).lower()
    return "".join(f" {it} " if ALONE.match(it) else it if _is_in_word(it) else " " for it in text).split()


def _is_in_word(character: str) -> bool:
    """Return whether a character is a letter, a digit or a mark on one, as the vowel signs of Hindi are."""
    return character.isalnum() or unicodedata.category(character).startswith("M")


@cache
def _warn_once(name: str) -> None:
    logger.warning(
        "%s reads the letters a-z only, and most letters of a reference are others: even equal texts may score 0; set"
        " tokenizer=unicode (--reward-arg %s.tokenizer=unicode)",
        name,
        name,
    )


@lru_cache(maxsize=8)
def _scorer(kinds: tuple[str, ...], words: Words) -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(kinds), tokenizer=_tokenizer(words))


@lru_cache(maxsize=2)
def _tokenizer(words: Words) -> object:
    """Return the process's tokenizer of a kind, which caches recent texts."""
    from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

    plain = DefaultTokenizer(use_stemmer=True)

    def any_script(text: str) -> list[str]:
        # A word of a-z is stemmed as by the usual tokenizer.
        return [stem for word in unicode_words(text) for stem in (plain.tokenize(word) if word.isascii() else [word])]

    class CachingTokenizer(Tokenizer):
        tokenize = staticmethod(lru_cache(maxsize=CACHED_TEXTS)(plain.tokenize if words == "ascii" else any_script))

    return CachingTokenizer()
