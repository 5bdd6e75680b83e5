"""Rows of tables become examples: names of columns, malformed rows, progress."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tril_gym.data.chats import with_split_chats
from tril_gym.data.example import Example
from tril_gym.data.examples import PLAIN, Examples
from tril_gym.data.readers import ROWS_AT_ONCE, TOO_DEEP, Line, python_literal
from tril_gym.data.task import Task
from tril_gym.utils.config_fields import check_choice
from tril_gym.utils.suggestions import suggestion, with_suggestion

logger = logging.getLogger(__name__)

SKIP_ROWS = 'on_bad_row="skip" leaves such rows out: --env-arg on_bad_row=skip, for reward models --on-bad-row skip'
MAX_MESSAGE = 600  # characters about a row, whose values may be long


@dataclass(frozen=True, slots=True)
class RowReader:
    """How rows become examples.

    Attributes:
        task: which columns the rows have, and how they are read.
        columns: pairs of a column's name of the task and its name in the rows, where they differ.
        on_bad_row: "raise", or "skip" to leave malformed rows out, count them in `skipped` and log the count.
    """

    task: Task
    columns: tuple[tuple[str, str], ...] = ()
    on_bad_row: str = "raise"

    @staticmethod
    def of(task: Task, column: Mapping[str, str] | None, on_bad_row: str) -> RowReader:
        """Return the reader of these settings.

        Raises:
            ValueError: a setting is wrong.
        """
        check_choice("on_bad_row", on_bad_row, ("raise", "skip"))
        names = task.columns + task.optional_columns
        column = {} if column is None else column
        if not isinstance(column, Mapping) or not all(
            isinstance(name, str) for pair in column.items() for name in pair
        ):
            raise ValueError(
                f'column must map a column of {task.name} to its name in the data, such as {{"{names[0]}": "my name"}},'
                f" got {column!r}"
            )
        if unknown := sorted(set(column) - set(names)):
            raise ValueError(
                f"column must map a column of {task.name}, which are {', '.join(names)}, to its name in the data, got"
                f" {with_suggestion(unknown[0], names)} -> {column[unknown[0]]!r}"
            )
        return RowReader(task, tuple(sorted(column.items())), on_bad_row)


def to_examples(reader: RowReader, lines: Iterable[Line], *, source: str) -> Examples:
    """Turn rows into examples; a malformed one raises ValueError with its place and reason, or is skipped."""
    read, skipped, reason = 0, 0, ""

    def usable() -> Iterator[Example]:
        nonlocal read, skipped, reason
        for number, row in lines:
            read += 1
            try:
                yield to_example(reader.task, row, reader.columns)
            except ValueError as error:
                reason = reason or f"{source}, line {number}: {_shortened(str(error))}"
                if reader.on_bad_row == "raise":
                    raise ValueError(f"{reason} ({SKIP_ROWS})") from error
                skipped += 1

    found = Examples(_counted(reader.task.gather(usable()), source), source=source)
    if not found:
        raise ValueError(f"{source} has no usable row: {reason or 'it is empty'}")
    if skipped:
        logger.warning("%s: skipped %d malformed rows of %d; the first: %s", source, skipped, read, reason)
    found.skipped = skipped
    return found


def _counted(examples: Iterable[Example], source: str) -> Iterator[Example]:
    """Yield the examples; where they are many, show how many have been read."""
    rest = iter(examples)
    yield from islice(rest, PLAIN)
    first = list(islice(rest, 1))
    if not first:
        return
    from tril_gym.utils.console import RunConsole

    with RunConsole().counting(f"reading {source}", "rows") as show:
        yield from first
        for number, example in enumerate(rest, start=PLAIN + 2):
            yield example
            if number % ROWS_AT_ONCE == 0:
                show(number)


def _shortened(message: str) -> str:
    """Return a message without the middle of a long value in it."""
    half = MAX_MESSAGE // 2
    return message if len(message) <= MAX_MESSAGE else f"{message[:half]} … {message[-half:]}"


def to_example(task: Task, row: dict[str, Any] | ValueError, columns: tuple[tuple[str, str], ...] = ()) -> Example:
    """Turn a row into an example; raise ValueError with the reason where that fails."""
    if isinstance(row, ValueError):
        raise row
    if columns or task.hub.columns:
        row = rename_columns(task, row, columns)
    row = with_split_chats(row)
    for column in task.columns:
        if column not in row:
            raise _no_column(task, row, column)
    try:
        return task.read(row)
    except RecursionError as error:  # while a message is written
        raise ValueError(TOO_DEEP) from error


def _no_column(task: Task, row: Mapping[str, Any], column: str) -> ValueError:
    published = f" (or {task.hub.columns[column]!r})" if column in task.hub.columns else ""
    return ValueError(
        f"there is no column {column!r}{published}; found {', '.join(map(str, row))}, and {task.name} has"
        f' {", ".join(task.columns + task.optional_columns)}; column={{"{column}": "NAME"}}, or --column {column}=NAME,'
        " says which of yours it is"
    )


def rename_columns(task: Task, row: dict[str, Any], columns: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """Return a row with our names of the columns in place of the user's, or of those of the public data set.

    A column of references with one text in each row, as the public data set has, becomes lists; "" stands in test sets
    without one. Cells that spell a list stay as they are: the task reads JSON and refuses Python's spelling.

    Raises:
        ValueError: a column that `columns` names is missing.
    """
    for ours, theirs in columns:
        if theirs not in row:
            raise ValueError(
                f"there is no column {theirs!r}{suggestion(theirs, row)}, which column= (--column) names for {ours!r};"
                f" found {', '.join(map(str, row))}"
            )
    named = dict(row)
    known = dict(columns).keys() | row.keys()
    pairs = columns + tuple(pair for pair in task.hub.columns.items() if pair[0] not in known and pair[1] in row)
    for _, theirs in pairs:
        named.pop(theirs, None)
    for ours, theirs in pairs:
        cell = named[ours] = row[theirs]
        if ours in task.list_columns and isinstance(cell, str) and not _spells_list(cell):
            named[ours] = [cell] if cell else []
    return named


def _spells_list(cell: str) -> bool:
    """Return whether a cell spells a list in JSON, or one of texts as Python prints it."""
    if not cell.lstrip().startswith("["):
        return False
    try:
        return isinstance(json.loads(cell), list)
    except (ValueError, RecursionError):
        found = python_literal(cell)
        return isinstance(found, list) and all(isinstance(item, str) for item in found)
