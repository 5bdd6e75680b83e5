"""What a task is: which columns its rows have, how a row becomes an example, and how long its texts are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tril_gym.data.example import Example

DataRow = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A public data set on the Hugging Face hub."""

    repository: str  # owner/name
    columns: Mapping[str, str] = field(default_factory=dict)  # ours: theirs, where the names differ


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A task as data. `read` raises ValueError with the reason where a row will not do."""

    name: str
    columns: tuple[str, ...]
    read: Callable[[DataRow], Example]
    gather: Callable[[Iterable[Example]], Iterable[Example]] = tuple  # common_gen: joins rows of one concept set
    list_columns: tuple[str, ...] = ()  # columns that hold lists: JSON lists in the cells of a CSV file
    max_prompt_length: int  # P
    max_new_tokens: int  # T
    prompt_truncation_side: Literal["left", "right"]
    hub: Hub


def text_of(row: DataRow, column: str) -> str:
    """Return a cell that must be a text with something in it."""
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{column} must be a text that is not empty, got {value!r}")
    return value


def texts_of(row: DataRow, column: str) -> list[str]:
    """Return a cell that must be a list of texts, or a text that is one in JSON."""
    value = row[column]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(
                f'{column} must be a list of texts (in CSV a JSON list: ["a", "b"]), got {value!r}'
            ) from None
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item.strip() for item in value):
        raise ValueError(f"{column} must be a list of texts that are not empty, got {value!r}")
    return list(value)
