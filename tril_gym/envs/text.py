"""Text: write after prompts of your own, from any table with a column of prompts.

Rows may also have references, to imitate or to compare with, and any further columns, which rewards read as extras.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from tril_gym.data.example import Example, Message
from tril_gym.data.task import DataRow, Hub, Task, text_of, texts_of
from tril_gym.envs.config import text_env_config

COLUMNS = frozenset({"prompt", "references", "completion"})


def read(row: DataRow) -> Example:
    """Read a prompt, the texts that may follow it, and all other columns as extras.

    A completion is a reference; with both columns it is the first of them. A reference that is missing or "" is none.
    """
    messages = _messages(row["prompt"])
    prompt = transcript(messages) if messages else text_of(row, "prompt")
    extras = {name: value for name, value in row.items() if name not in COLUMNS}
    if "finish_reason" in extras:
        raise ValueError("the column finish_reason has the name of what the environment says itself; give it another")
    references = _references(row)
    if "completion" in row:
        references = list(dict.fromkeys(_completion(row) + references))  # without repetition, in order
    return Example(prompt, references=tuple(references), extras=extras, messages=messages)


def transcript(messages: tuple[Message, ...]) -> str:
    """Return a chat as one text, which names and compares it; models read what the chat template makes of it."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _messages(prompt: Any) -> tuple[Message, ...]:
    """Return the messages of a prompt that is a chat, also as JSON in a cell of CSV; () for a text."""
    if isinstance(prompt, str):
        if not prompt.startswith("[{") or (parsed := _parsed(prompt)) is None:
            return ()
        prompt = parsed
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


def _parsed(cell: str) -> list[Any] | None:
    """Return the chat that a cell spells in JSON, None where it is an ordinary text."""
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        return None
    is_chat = all(isinstance(item, dict) and {"role", "content"} <= item.keys() for item in found)
    return found if is_chat else None


def _check_message(message: Any, number: int) -> None:
    is_message = isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))
    if not is_message:
        raise ValueError(
            'prompt must be a text or a list of messages such as {"role": "user", "content": "…"}, got'
            f" {message!r} as message {number}"
        )


def _completion(row: DataRow) -> list[str]:
    """Return the completion in a list; an empty one where there is none."""
    value = row.get("completion")
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):  # the assistant's one message
        value = value[0].get("content")
    if value is None or value == "":
        return []
    if not isinstance(value, str):
        raise ValueError(f"completion must be a text, got {value!r}; a list of texts is the column references")
    return [value]


def _references(row: DataRow) -> list[str]:
    value = row.get("references")
    if value is None or value == "":
        return []
    if isinstance(value, str) and not value.lstrip().startswith("["):
        raise ValueError(
            f"references must be a list of texts (in CSV a JSON list), got {value!r}; one text for each prompt is the"
            ' column completion: column={"completion": "NAME"}, or --column completion=NAME'
        )
    return texts_of(row, "references")


TEXT = Task(
    name="text",
    columns=("prompt",),
    optional_columns=("references", "completion"),
    read=read,
    list_columns=("references",),
    max_prompt_length=None,
    max_new_tokens=None,
    prompt_truncation_side="left",  # the completion continues the end of the prompt
    hub=Hub(repository=""),
)

text_config = functools.partial(text_env_config, TEXT)
