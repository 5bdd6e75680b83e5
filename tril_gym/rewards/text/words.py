"""Words and n-grams of words."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"\w+|[^\w\s]")

Ngram = tuple[str, ...]


def split_words(text: str) -> list[str]:
    """Split a text into lower-cased words: "It's red." is it, ', s, red, full stop.

    A word is a run of letters, digits and underscores, or one other character that is no white space.
    """
    return _WORD.findall(text.lower())


def ngrams_of(words: Sequence[str], n: int) -> list[Ngram]:
    """Return the n-grams of words in order; none if there are fewer than n words."""
    return list(zip(*(words[i:] for i in range(n)), strict=False))
