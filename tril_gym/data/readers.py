"""Readers of files: rows with their line numbers; an error takes the place of a row that cannot be parsed."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# A line number, and the row or the reason why it cannot be parsed.
Line = tuple[int, dict[str, Any] | ValueError]


def read_jsonl(path: Path) -> Iterator[Line]:
    """Yield one row per line of JSON; empty lines are skipped."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _parse(line)


def _parse(line: bytes) -> dict[str, Any] | ValueError:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:  # neither UTF-8 nor JSON
        return ValueError(f"not a line of JSON: {error}")
    return row if isinstance(row, dict) else ValueError(f"a row must be a JSON object, got {row!r}")


def read_csv(path: Path) -> Iterator[Line]:
    """Yield one row per record after the header."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        while True:
            try:
                row = next(reader, None)
            except (csv.Error, UnicodeDecodeError) as error:
                raise ValueError(f"{path}, line {reader.line_num}: not CSV in UTF-8: {error}") from error
            if row is None:
                return
            width = len(reader.fieldnames or ())
            is_whole = None not in row and None not in row.values()
            yield reader.line_num, row if is_whole else ValueError(f"a row must have {width} cells, as the header has")


def read_parquet(path: Path) -> Iterator[Line]:
    """Yield one row per record, with its number in place of a line number."""
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from error
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
    except (OSError, EOFError) as error:  # a damaged gzip file raises either
        raise ValueError(f"{path} cannot be read: {error}") from error
