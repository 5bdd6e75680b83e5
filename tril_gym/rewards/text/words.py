"""Words, n-grams of words, and a check of settings that are counts."""

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


def check_whole(name: str, value: int, *, usual: int, least: int = 1) -> None:
    """Raise ValueError unless a setting is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"{name} must be a whole number of at least {least}, got {value!r}; the usual value is {usual}"
        )
