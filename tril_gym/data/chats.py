"""Chats in rows of data: lists of messages, also as JSON in a cell."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tril_gym.data.readers import python_literal
from tril_gym.utils.chats import Message

OBJECTS_IN_LIST = re.compile(r"\s*\[\s*\{")  # how a chat in JSON begins


def transcript(messages: tuple[Message, ...]) -> str:
    """Return a chat as one text, which names and compares it; models read what the chat template makes of it."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def messages_of(prompt: Any) -> tuple[Message, ...]:
    """Return the messages of a prompt that is a chat, also as JSON in a cell of CSV; () for a text."""
    prompt = _from_cell(prompt)
    if not isinstance(prompt, list | tuple):
        return ()  # `text_of` says what it must be
    for number, message in enumerate(prompt):
        _check_message(message, number)
    if not prompt:
        raise ValueError("prompt must have one message or more, got an empty list")
    if prompt[-1]["role"] == "assistant":
        raise ValueError(
            "the last message of a prompt must not be the assistant's, which is what the policy writes; put that text"
            " in the column completion"
        )
    return tuple(dict(message) for message in prompt)


def _from_cell(value: Any) -> Any:
    """Return the chat that a cell spells in JSON; any other value as it is."""
    found = _parsed(value) if isinstance(value, str) and OBJECTS_IN_LIST.match(value) else None
    return value if found is None else found


def _parsed(cell: str) -> list[Any] | None:
    """Return the chat that a cell spells in JSON, None where it is an ordinary text."""
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        if _is_python(cell):
            raise ValueError(
                f"a chat in a cell must be JSON, as json.dumps writes it, got Python syntax: {cell[:60]}…"
            ) from None
        return None
    return found if _is_chat(found) else None


def _is_python(cell: str) -> bool:
    """Return whether a cell spells a chat as Python prints it, as DataFrame.to_csv writes it."""
    found = python_literal(cell)
    return isinstance(found, list) and _is_chat(found)


def _is_chat(found: Any) -> bool:
    return all(isinstance(item, dict) and {"role", "content"} <= item.keys() for item in found)


def _check_message(message: Any, number: int) -> None:
    is_message = isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))
    if not is_message:
        raise ValueError(
            'prompt must be a text or a list of messages such as {"role": "user", "content": "…"}, got'
            f" {message!r} as message {number}"
        )


def assistant_text(value: Any) -> Any:
    """Return the text of a completion that is a list with one message, also in JSON; anything else as it is."""
    value = _from_cell(value)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):
        message = value[0]
        if message.get("role", "assistant") != "assistant" or not isinstance(message.get("content"), str):
            raise ValueError(f"a completion that is a message must be the assistant's, with a text, got {message!r}")
        return message["content"]
    return value


def with_split_chats(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of preferences whose two texts are whole chats with their prompt, up to the last messages.

    Other rows are returned as they are.

    Raises:
        ValueError: the chats are not the same up to their last messages.
    """
    if not {"chosen", "rejected"} <= row.keys():
        return row
    chosen, rejected = (_whole_chat(row[name]) for name in ("chosen", "rejected"))
    if chosen is None or rejected is None:
        return row
    if chosen[:-1] != rejected[:-1]:
        raise ValueError(
            "chosen and rejected are chats, so they must differ only in their last messages, both of the assistant; got"
            f" {chosen!r} and {rejected!r}"
        )
    return row | {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


def _whole_chat(value: Any) -> list[Any] | None:
    """Return a chat of two messages or more, also as JSON in a cell; None for anything else."""
    value = _from_cell(value)
    return value if isinstance(value, list) and len(value) > 1 and _is_chat(value) else None
