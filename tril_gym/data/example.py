"""An example, and a read-only sequence of examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

LONE_SURROGATE = re.compile("[\ud800-\udfff]")

Message = Mapping[str, Any]  # of a chat: "role" and "content", both texts, and what else a chat template reads


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with its references.

    Attributes:
        prompt: the text to continue.
        references: human-written completions.
        label: the class of the example, where it has one (IMDB: 1 positive, 0 negative).
        extras: further data for rewards (CommonGen: {"concepts": [...]}).
        suffix: the end of `prompt` that truncation keeps, such as "TL;DR:".
        messages: the chat of which `prompt` is a transcript; an environment shows the chat as its tokenizer's template
            renders it.
    """

    prompt: str
    references: tuple[str, ...] = ()
    label: int | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""
    messages: tuple[Message, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.references, str):
            raise ValueError(
                f"references must be a sequence of texts, got one text {self.references!r}; put it in a list"
            )
        object.__setattr__(self, "references", tuple(self.references))  # a list is accepted too
        for name, text in (("prompt", self.prompt), *(("a reference", text) for text in self.references)):
            check_text(name, text)
        if not self.prompt.endswith(self.suffix):
            raise ValueError(
                f"suffix must be the end of the prompt, but {self.prompt!r} does not end in {self.suffix!r}"
            )

    @property
    def all_extras(self) -> dict[str, Any]:
        """The extras as infos have them: with the label, if there is one."""
        return dict(self.extras) | ({} if self.label is None else {"label": self.label})


def check_text(name: str, text: Any) -> None:
    """Check that a value is a text which UTF-8 can hold.

    Raises:
        ValueError: it is none, or has half of a surrogate pair, which JSON can spell and tokenizers refuse.
    """
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a text, got {text!r}")
    if not text.isascii() and (half := LONE_SURROGATE.search(text)):
        raise ValueError(
            f"{name} has {half[0]!r} at character {half.start()}, half of a surrogate pair, which is no character;"
            " write the whole character, or leave it out"
        )


class Examples(Sequence[Example]):
    """Examples that are loaded once and shared by all environments of the process.

    Attributes:
        source: where they come from, for messages.
        held_out: whether they are to be evaluated on, not learned from.
        skipped: number of malformed rows that were left out (`on_bad_row="skip"`).
        prompt_tables: the tokenised prompts, by tokenizer and length; see `tril_gym.envs.prompts`.
    """

    def __init__(self, examples: Iterable[Example], *, source: str, skipped: int = 0, held_out: bool = False) -> None:
        self._examples = tuple(examples)
        self.source, self.skipped, self.held_out = source, skipped, held_out
        self.prompt_tables: dict[tuple[object, ...], Any] = {}

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Example, ...]: ...
    def __getitem__(self, index: int | slice) -> Example | tuple[Example, ...]:
        return self._examples[index]

    def __len__(self) -> int:
        return len(self._examples)

    def __deepcopy__(self, memo: dict[int, Any]) -> Examples:
        return self  # read-only, so a copy is not needed

    def __repr__(self) -> str:
        return f"Examples({len(self)} from {self.source})"
