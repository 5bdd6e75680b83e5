"""Text and token ids, for texts that stop and go on anywhere: between words, within a word, within a character."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

# What a text is put behind, so that its first piece is spelled as in the middle of a text. The first one is in few
# vocabularies, and what a vocabulary does not know merges with nothing.
ANCHORS = ("☃", ".", "a")
UNREADABLE = "\ufffd"  # what tokenizers decode bytes to that are no character, or not yet


class TextCodec:
    """A tokenizer's ids as text and back, without special tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self._known = tokenizer, len(tokenizer)
        self._behind = self._encode("a")

    def text(self, ids: Sequence[int], *, with_special_tokens: bool = False) -> str:
        """What ids say behind other text: with the space that a first word begins with, which some decoders drop."""
        both = self.decode([*self._behind, *ids], with_special_tokens=with_special_tokens)
        return both.removeprefix(self.decode(self._behind, with_special_tokens=with_special_tokens))

    def decode(self, ids: Sequence[int], *, with_special_tokens: bool = False) -> str:
        """What ids say, as the tokenizer has it. Those that only the model has say nothing."""
        known, skip = [token for token in ids if token < self._known], not with_special_tokens
        text: str = self.tokenizer.decode(known, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        return text

    def ids(self, text: str, after: Sequence[int] = ()) -> list[int]:
        """Tokenise how a text goes on after some ids, so that all ids together say the one text and the other.

        Vocabularies that mark words ("▁dog") put a mark before every text, also before one that goes on within a word;
        there the ids are those that it has behind another character. Where no ids say exactly this (a vocabulary
        without capitals), those are taken that have a space between the texts, or none, as it should be.
        """
        begun = self.text(after, with_special_tokens=True)

        def fit(ids: list[int]) -> int:
            both = self.text([*after, *ids], with_special_tokens=True)  # a word that is not known is no space
            seam = both.removeprefix(begun)[:1]
            return 2 * (both == begun + text) + (seam.isspace() == text[:1].isspace())

        best = self._encode(text)
        for ids in self._spellings(text):
            if fit(best) >= 2:
                break
            best = max(best, ids, key=fit)
        return best

    def character_start(self, ids: Sequence[int], end: int) -> int:
        """Where to cut a text so that no character is cut in two: `end`, or the token that the character begins in."""
        whole = self.decode(ids)

        def cuts(end: int) -> bool:
            # Bytes that are no character in the whole text either are not readable, but whole.
            part = self.decode(ids[:end])
            return part.endswith(UNREADABLE) and not whole.startswith(part)

        while end > 0 and cuts(end):
            end -= 1
        return end

    def _spellings(self, text: str) -> Iterator[list[int]]:
        for anchor in ANCHORS:
            head, both = self._encode(anchor), self._encode(anchor + text)
            if both[: len(head)] == head:
                yield both[len(head) :]

    def _encode(self, text: str) -> list[int]:
        """No special tokens, neither around the text nor where it spells their names; no cut, and no word about it."""
        settings = {"add_special_tokens": False, "split_special_tokens": True, "truncation": False, "verbose": False}
        return list(self.tokenizer(text, **settings)["input_ids"])
