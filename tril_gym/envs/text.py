"""Text: write after prompts of your own, from any table with a column of prompts.

Rows may also have references, to imitate or to compare with, and any further columns, which rewards read as extras.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from numbers import Integral

from tril_gym.data.chats import assistant_text, messages_of, transcript
from tril_gym.data.example import Example
from tril_gym.data.preferences import read_pair
from tril_gym.data.task import DataRow, Hub, Task, text_of, texts_of
from tril_gym.envs.config import text_env_config
from tril_gym.utils.chats import PROMPT_MESSAGES

COLUMNS = frozenset({"prompt", "references", "completion"})
TAKEN = frozenset({"finish_reason", PROMPT_MESSAGES})


def read(row: DataRow) -> Example:
    """Read a prompt, the texts that may follow it, and all other columns as extras.

    A completion is a reference; with both columns it is the first of them. A reference that is missing or "" is none.
    In a table of preferences, with the columns chosen and rejected instead of these, the chosen text is the reference.
    """
    messages = messages_of(row["prompt"])
    prompt = transcript(messages) if messages else text_of(row, "prompt")
    extras = {name: value for name, value in row.items() if name not in COLUMNS}
    for name in TAKEN & extras.keys():
        raise ValueError(f"the column {name} has the name of an extra that the environment adds; rename the column")
    if {"chosen", "rejected"} <= row.keys() and not {"references", "completion"} & row.keys():
        pair = read_pair(row)
        return replace(pair, extras={name: extras[name] for name in extras if name != "chosen"} | dict(pair.extras))
    references = _references(row)
    if "completion" in row:
        references = list(dict.fromkeys(_completion(row) + references))  # without repetition, in order
    return Example(prompt, references=tuple(references), extras=extras, messages=messages)


def _is_empty(value: object) -> bool:
    """Return whether a cell is empty; an array, which has no single truth value, is not."""
    return value is None or (isinstance(value, str) and not value)


def _completion(row: DataRow) -> list[str]:
    """Return the completion in a list; an empty one where there is none. A whole number is text, as in CSV."""
    value = assistant_text(row.get("completion"))
    if _is_empty(value):
        return []
    if isinstance(value, Integral) and not isinstance(value, bool):
        return [str(int(value))]
    if not isinstance(value, str):
        raise ValueError(
            f"completion must be a text or a whole number, got {value!r}; write other numbers as texts, and a list of"
            " texts as the column references"
        )
    return [value]


def _references(row: DataRow) -> list[str]:
    value = row.get("references")
    if _is_empty(value):
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
    optional_columns=("references", "completion", "chosen", "rejected"),
    read=read,
    list_columns=("references",),
    max_prompt_length=None,
    max_new_tokens=None,
    prompt_truncation_side="left",  # the completion continues the end of the prompt
    hub=Hub(repository=""),
)

text_config = functools.partial(text_env_config, TEXT)
