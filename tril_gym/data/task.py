"""The description of a task: the columns of its rows, how a row becomes an example, and the lengths of its texts."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from string import Formatter
from typing import Any, Literal

from tril_gym.data.example import Example
from tril_gym.utils.templates import check_fields

DataRow = Mapping[str, Any]  # a row of a data set: values by column


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A public data set on the Hugging Face hub."""

    repository: str  # owner/name; "" where a task has no public data set of its own
    columns: Mapping[str, str] = field(default_factory=dict)  # our name: theirs, where they differ
    # the folders to read, where the data are in several; the columns that all rows of a folder get
    folders: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What `load_examples` and an environment need to know about a task.

    Attributes:
        name: also the folder of the embedded data.
        columns: names of the columns that every row must have.
        optional_columns: names of further columns that `read` knows.
        read: turns a row into an example, or raises ValueError with the reason.
        prompt_template: format of a prompt, of columns of the row, for tasks whose `read` takes it as `template`; None
            where prompts are in the rows.
        gather: combines the examples of a data set (CommonGen joins those of one concept set).
        list_columns: columns that hold lists: in a CSV file JSON lists.
        has_pairs: whether an example has a rejected completion beside its reference, in the extra "rejected".
        cuts_references: whether references are longer than T by design, as the second halves of IMDB's reviews are.
        max_prompt_length: P; None measures the prompts.
        max_new_tokens: T; None measures the references.
        prompt_truncation_side: the side on which a prompt that is too long is cut.
        turn_marks: how the turns of a dialogue begin; a prompt that is too long is cut on the left at one of them.
        stop: strings at which texts end by default, besides EOS.
        hub: where the public data set is.
    """

    name: str
    columns: tuple[str, ...]
    optional_columns: tuple[str, ...] = ()
    read: Callable[..., Example]
    prompt_template: str | None = None
    gather: Callable[[Iterable[Example]], Iterable[Example]] = iter
    list_columns: tuple[str, ...] = ()
    has_pairs: bool = False
    cuts_references: bool = False
    max_prompt_length: int | None
    max_new_tokens: int | None
    prompt_truncation_side: Literal["left", "right"]
    turn_marks: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    hub: Hub


@functools.lru_cache(maxsize=16)
def with_template(task: Task, template: str | None) -> Task:
    """Return a task whose prompts have another format; the same task for None.

    Raises:
        ValueError: the task has no template, or the new one has other fields.
    """
    usual = task.prompt_template
    if template is None or template == usual:
        return task
    if usual is None:
        raise ValueError(f"prompt_template is for tasks that write their prompts themselves; {task.name} does not")
    fields = tuple(field for _, field, _, _ in Formatter().parse(usual) if field)
    check_fields("prompt_template", template, required=fields[-1:], allowed=fields, usual=usual)
    return replace(task, prompt_template=template, read=functools.partial(task.read, template=template))


def text_of(row: DataRow, column: str) -> str:
    """Return a cell that must be a text with more than white space."""
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{column} must be a text that is not empty, got {value!r}")
    return value


def texts_of(row: DataRow, column: str) -> list[str]:
    """Return a cell that must be a list of texts, or such a list in JSON."""
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
