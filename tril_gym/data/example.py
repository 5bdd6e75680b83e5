"""One thing to write about, and a read-only list of many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, and what is known of good completions.

    Attributes:
        prompt: the text to continue.
        references: human-written completions.
        label: the example's class, where it has one (IMDB: 1 positive, 0 negative).
        extras: what a reward may want besides (CommonGen: {"concepts": [...]}).
        suffix: the end of `prompt` that truncation never cuts, such as TL;DR's call for a summary.
    """

    prompt: str
    references: tuple[str, ...] = ()
    label: int | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.references, str):
            raise ValueError(
                f"references must be a sequence of texts, got one text {self.references!r}; put it in a list"
            )
        object.__setattr__(self, "references", tuple(self.references))  # a list is welcome, too
        if not self.prompt.endswith(self.suffix):
            raise ValueError(
                f"suffix must be the end of the prompt, but {self.prompt!r} does not end in {self.suffix!r}"
            )


class Examples(Sequence[Example]):
    """Examples that were loaded once and are shared by every environment of the process.

    Attributes:
        source: where they come from, for messages.
        skipped: how many malformed rows were left out (`on_bad_row="skip"`).
        tables: the prompts as tokens, by tokenizer and length; see `prompts.py`.
    """

    def __init__(self, rows: Iterable[Example], *, source: str, skipped: int = 0) -> None:
        self._rows = tuple(rows)
        self.source, self.skipped = source, skipped
        self.tables: dict[tuple[object, ...], Any] = {}

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Example, ...]: ...
    def __getitem__(self, index: int | slice) -> Example | tuple[Example, ...]:
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __deepcopy__(self, memo: dict[int, Any]) -> Examples:
        return self  # read-only, so a copy would only cost memory

    def __repr__(self) -> str:
        return f"Examples({len(self)} from {self.source})"
