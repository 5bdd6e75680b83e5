"""Stop strings: a text ends as soon as one of them is in it, and its completion is the text before it.

Environments and actors must agree on where a text has ended, so all of them ask here. They know texts as token ids: a
stop string is in a text if it is in what its ids decode to after a prompt, special tokens left out. It may end inside
of a token, the rest of which then belongs to no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tril_gym.utils.tokenization import UNREADABLE, decode, decode_after_text, decodes_bytes, hidden_token


class StopStrings:
    """Finds where texts end.

    Args:
        strings: the stop strings; with none of them, no text ends.
        tokenizer: of the ids; it is not used without strings.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Any) -> None:
        self.strings, self._tokenizer = tuple(strings), tokenizer
        self._last = {string[-1] for string in self.strings}
        self._is_exact = bool(self.strings) and decodes_bytes(tokenizer)
        self._completes: dict[int, bool] = {}  # of the tokens that were asked for

    def __bool__(self) -> bool:
        return bool(self.strings)

    def are_in(self, ids: Sequence[int]) -> bool:
        """Return whether one of the strings is in the text of these ids."""
        if not self.strings:
            return False
        text = decode_after_text(self._tokenizer, ids)
        return any(string in text for string in self.strings)

    def end(self, ids: Sequence[int]) -> bool:
        """Return whether a text that had none of the strings before its newest token has one now.

        The same as `are_in`, but most tokens cannot complete a string, and then the whole text is not decoded.
        """
        return bool(ids) and self._may_complete(ids[-1]) and self.are_in(ids)

    def _may_complete(self, token: int) -> bool:
        """Return whether a token has the last character of a string, or some of the bytes of one."""
        if not self._is_exact:
            return True
        if token not in self._completes:
            text = decode(self._tokenizer, [token])
            self._completes[token] = UNREADABLE in text or not self._last.isdisjoint(text)
        return self._completes[token]

    def cut(self, text: str) -> str:
        """Return a text up to the first stop string in it."""
        return text[: min((place for string in self.strings if (place := text.find(string)) >= 0), default=None)]

    def cut_ids(self, ids: Sequence[int]) -> list[int]:
        """Return the ids up to the first one with which a stop string is complete; all where there is none."""
        if not self.are_in(ids):
            return list(ids)
        first, last = 0, len(ids)  # a text that has a string still has it with more tokens
        while last - first > 1:
            middle = (first + last) // 2
            first, last = (first, middle) if self.are_in(ids[:middle]) else (middle, last)
        return list(ids[:last])


def check_stop(stop: Any, tokenizer: Any) -> tuple[str, ...]:
    """Return the stop strings of a setting: None, a text, or a list of texts.

    Raises:
        ValueError: something else, an empty text, or one that no text can have.
    """
    strings = () if stop is None else (stop,) if isinstance(stop, str) else stop
    if not isinstance(strings, list | tuple) or not all(isinstance(string, str) and string for string in strings):
        raise ValueError(f'stop must be a text or a list of texts that are not empty, such as ["###"], got {stop!r}')
    for string in strings:
        if (token := hidden_token(tokenizer, string)) is not None:
            ids = dict.fromkeys([tokenizer.eos_token_id, token])
            raise ValueError(
                f"stop must be text, and {string!r} is a special token, which texts do not show; end texts at it with"
                f" eos_token_ids={[*ids]}, as the tokenizer's EOS does by default"
            )
        if UNREADABLE in string:
            raise ValueError(f"stop has {UNREADABLE!r} in {string!r}, which stands for what is no text; leave it out")
    return tuple(dict.fromkeys(strings))
