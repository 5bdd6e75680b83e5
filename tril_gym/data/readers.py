"""Readers of files: rows with their line numbers; an error takes the place of a row that cannot be parsed."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TOO_DEEP = "its JSON is nested too deeply; a row is an object of texts, numbers and lists of texts"
DAMAGED = "check that it is complete and not damaged, for example by copying it again"

# A line number, and the row or the reason why it cannot be parsed.
Line = tuple[int, dict[str, Any] | ValueError]


def read_jsonl(path: Path) -> Iterator[Line]:
    """Yield one row per line of JSON; empty lines are skipped.

    Raises:
        ValueError: the file is damaged; the message has the number of the first line that cannot be read.
    """
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _parse(line)
    except (OSError, EOFError, zlib.error) as error:  # a damaged gzip file raises any of them
        raise ValueError(f"{path}, line {number + 1}: cannot be read: {error}; {DAMAGED}") from error


def _parse(line: bytes) -> dict[str, Any] | ValueError:
    try:
        row = json.loads(line.decode("utf-8-sig"))
        return row if isinstance(row, dict) else ValueError(f"a row must be a JSON object, got {row!r}")
    except ValueError as error:  # neither UTF-8 nor JSON
        return ValueError(f"not a line of JSON: {error}")
    except RecursionError:
        return ValueError(TOO_DEEP)


def read_csv(path: Path) -> Iterator[Line]:
    """Yield one row per record after the header."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        _check_header(path, reader)
        while True:
            try:
                row = next(reader, None)
            except (csv.Error, UnicodeDecodeError) as error:
                raise _not_csv(path, reader, error) from error
            if row is None:
                return
            width = len(reader.fieldnames or ())
            is_whole = None not in row and None not in row.values()
            yield reader.line_num, row if is_whole else ValueError(f"a row must have {width} cells, as the header has")


def _check_header(path: Path, reader: csv.DictReader[str]) -> None:
    try:
        names = list(reader.fieldnames or ())
    except (csv.Error, UnicodeDecodeError) as error:
        raise _not_csv(path, reader, error) from error
    if len(names) == 1 and (others := [mark for mark in ";\t|" if mark in names[0]]):
        raise ValueError(f"{path}, line 1: columns are separated by commas, not {others[0]!r}, got {names[0]!r}")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}, line 1: the column {repeated[0]!r} is there twice; give each column its own name")


def _not_csv(path: Path, reader: csv.DictReader[str], error: Exception) -> ValueError:
    return ValueError(
        f"{path}, line {reader.line_num}: not CSV in UTF-8: {error}; save it again as UTF-8, or use JSON Lines"
    )


def read_parquet(path: Path) -> Iterator[Line]:
    """Yield one row per record, with its number in place of a line number."""
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is not a Parquet file, or a damaged one: {error}") from error
    yield from enumerate(rows, start=1)


READERS: dict[str, Callable[[Path], Iterator[Line]]] = {
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def read_file(path: Path) -> Iterator[Line]:
    """Yield the rows of a file in the format that its ending names."""
    endings = [ending for ending in READERS if path.name.endswith(ending)]
    if not endings:
        raise ValueError(f"{path} must end in {', '.join(READERS)}")
    try:
        yield from READERS[endings[0]](path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}; {DAMAGED}") from error
