"""Conversion between text and token ids, for texts that are cut anywhere: between words, in a word, in a character."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tril_gym.utils.tokenization import UNREADABLE, decode, decode_after_text, encode

# Text is tokenised behind one of these, so that its first piece is tokenised as inside a text. The first one is in few
# vocabularies, and what a vocabulary does not know merges with nothing.
ANCHORS = ("☃", ".", "a")


class TextCodec:
    """Converts a tokenizer's ids to text and back, without special tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def text(self, ids: Sequence[int], *, with_special_tokens: bool = False) -> str:
        """Decode ids as they read after other text: with the space before a first word, which some decoders drop."""
        return decode_after_text(self.tokenizer, ids, with_special_tokens=with_special_tokens)

    def decode(self, ids: Sequence[int], *, with_special_tokens: bool = False) -> str:
        """Decode ids as the tokenizer does; ids beyond its vocabulary, which only the model has, give nothing."""
        return decode(self.tokenizer, ids, with_special_tokens=with_special_tokens)

    def ids(self, text: str, after: Sequence[int] = ()) -> list[int]:
        """Tokenise the continuation of some ids, so that all ids together decode to the text of both.

        Vocabularies that mark words ("▁dog") put a mark before every text, even one that continues a word; there the
        ids are those that the text has after another character. Where no ids decode to exactly this (a vocabulary
        without capitals), those are preferred that have a space between the texts, or none, as required.
        """
        begun = self.text(after, with_special_tokens=True)

        def fit(ids: list[int]) -> int:
            both = self.text([*after, *ids], with_special_tokens=True)  # an unknown word is not a space
            seam = both.removeprefix(begun)[:1]
            return 2 * (both == begun + text) + (seam.isspace() == text[:1].isspace())

        best = self._encode(text)
        for ids in self._candidates(text):
            if fit(best) >= 2:
                break
            best = max(best, ids, key=fit)
        return best

    def character_start(self, ids: Sequence[int], end: int) -> int:
        """Return the last place up to `end` where a cut divides no character: `end`, or its character's first token."""
        whole = self.decode(ids)

        def cuts(end: int) -> bool:
            # Bytes that are not a character in the whole text either are unreadable, but not cut.
            part = self.decode(ids[:end])
            return part.endswith(UNREADABLE) and not whole.startswith(part)

        while end > 0 and cuts(end):
            end -= 1
        return end

    def _candidates(self, text: str) -> Iterator[list[int]]:
        for anchor in ANCHORS:
            head, both = self._encode(anchor), self._encode(anchor + text)
            if both[: len(head)] == head:
                yield both[len(head) :]

    def _encode(self, text: str) -> list[int]:
        return encode(self.tokenizer, text)
