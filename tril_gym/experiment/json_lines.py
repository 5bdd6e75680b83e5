"""JSON Lines files of a run, one object an iteration: appended to, and read without lines that were not written whole.

A line is whole where it ends with a line break and is an object with the run's counter, such as "iteration".
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tril_gym.utils.atomic_files import finite_or_none, write_json_lines

log = logging.getLogger(__name__)

Row = dict[str, Any]


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append lines; numbers that are not finite become null."""
    lines = "".join(json.dumps(finite_or_none(row)) + "\n" for row in rows)
    with path.open("a", encoding="utf-8") as file:
        file.write(lines)


def read_rows(path: Path, *, counter: str) -> list[Row]:
    """Return the rows of the whole lines; none where there is no file."""
    return [row for _, row in _lines(path, counter) if row is not None]


def truncate_rows(path: Path, last: int, *, counter: str) -> None:
    """Remove the rows whose counter is above `last`, and what no row can be read from, with a warning."""
    lines = _lines(path, counter)
    if torn := [str(number) for number, row in lines if row is None]:
        log.warning("%s: removed what cannot be read, line %s", path, ", ".join(torn))
    if lines:
        write_json_lines(path, [row for _, row in lines if row is not None and row[counter] <= last])


def _lines(path: Path, counter: str) -> list[tuple[int, Row | None]]:
    """Return the number of each line with its row, None for a line that is not whole."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = [_row_of(line, counter) for line in lines[:-1]]
    return list(enumerate([*rows, None] if lines[-1] else rows, start=1))


def _row_of(line: str, counter: str) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get(counter), int) else None
