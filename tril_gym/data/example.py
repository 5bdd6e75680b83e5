"""An example: a prompt with its references."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tril_gym.utils.chats import PROMPT_MESSAGES, Message

LONE_SURROGATE = re.compile("[\ud800-\udfff]")


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
        if type(self.references) is not tuple:  # a list is accepted too
            object.__setattr__(self, "references", tuple(self.references))
        check_text("prompt", self.prompt)
        for reference in self.references:
            check_text("a reference", reference)
        if not self.prompt.endswith(self.suffix):
            raise ValueError(
                f"suffix must be the end of the prompt, but {self.prompt!r} does not end in {self.suffix!r}"
            )

    @property
    def all_extras(self) -> dict[str, Any]:
        """The extras as infos have them: with the label, if there is one, and the messages of a chat."""
        label = {} if self.label is None else {"label": self.label}
        messages = {PROMPT_MESSAGES: [dict(message) for message in self.messages]} if self.messages else {}
        return dict(self.extras) | label | messages


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
