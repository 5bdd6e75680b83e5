"""Readers of files: rows with their line numbers; an error takes the place of a row that cannot be parsed."""

from __future__ import annotations

import ast
import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

TOO_DEEP = "its JSON is nested too deeply; a row is an object of texts, numbers and lists of texts"
DAMAGED = "check that it is complete and not damaged, for example by copying it again"
BROKEN = (OSError, EOFError, zlib.error)  # a damaged gzip file raises any of them
LONGEST_CELL = 2**31 - 1  # characters; the module csv refuses cells of more than 131,072 otherwise
ROWS_AT_ONCE = 10_000  # of a table that becomes Python objects

# A line number, and the row or the reason why it cannot be parsed.
Line = tuple[int, dict[str, Any] | ValueError]


def python_literal(cell: str) -> Any:
    """Return what a cell spells in Python's syntax, as DataFrame.to_csv writes lists; None for anything else."""
    try:
        return ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def open_binary(path: Path) -> IO[bytes]:
    """Open a file for reading; what ends in .gz is decompressed."""
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def read_jsonl(path: Path) -> Iterator[Line]:
    """Yield one row per line of JSON; empty lines are skipped.

    Raises:
        ValueError: the file is damaged; the message has the number of the first line that cannot be read.
    """
    number = 0
    try:
        with open_binary(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _parse(line)
    except BROKEN as error:
        raise ValueError(f"{path}, line {number + 1}: cannot be read: {error}; {DAMAGED}") from error


def _parse(line: bytes) -> dict[str, Any] | ValueError:
    try:
        return _as_row(json.loads(line.removeprefix(codecs.BOM_UTF8).decode()))
    except ValueError as error:  # neither UTF-8 nor JSON
        return ValueError(f"not a line of JSON: {error}")
    except RecursionError:
        return ValueError(TOO_DEEP)


def _as_row(value: Any) -> dict[str, Any] | ValueError:
    return value if isinstance(value, dict) else ValueError(f"a row must be a JSON object, got {value!r}")


def read_json(path: Path) -> Iterator[Line]:
    """Yield the rows of a list of JSON objects, or of JSON Lines; a row of a list has its number for a line number.

    Raises:
        ValueError: the file is damaged, not JSON, or one object over several lines.
    """
    try:
        with open_binary(path) as file:
            start = file.read(1000).removeprefix(codecs.BOM_UTF8).lstrip()
            if start.startswith(b"["):
                content = start + file.read()
                yield from enumerate(map(_as_row, _json_list(path, content)), start=1)
                return
    except BROKEN as error:
        raise ValueError(f"{path} cannot be read: {error}; {DAMAGED}") from error
    if start.split(b"\n")[0].strip() == b"{":
        raise ValueError(
            f"{path} has a JSON object over several lines; write a list of rows, [{{…}}, {{…}}], or a row on each line"
        )
    yield from read_jsonl(path)


def _json_list(path: Path, content: bytes) -> list[Any]:
    try:
        found: list[Any] = json.loads(content.decode("utf-8"))
        return found
    except ValueError as error:
        raise ValueError(f"{path} is not a list of JSON objects: {error}; {DAMAGED}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: {TOO_DEEP}") from error


def read_csv(path: Path, *, delimiter: str = ",") -> Iterator[Line]:
    """Yield one row per record after the header."""
    csv.field_size_limit(LONGEST_CELL)
    with open_binary(path) as binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True, delimiter=delimiter)
        _check_header(path, reader)
        while True:
            try:
                row = next(reader, None)
            except (csv.Error, UnicodeDecodeError, *BROKEN) as error:
                raise _not_csv(path, reader, error) from error
            if row is None:
                return
            width = len(reader.fieldnames or ())
            is_whole = None not in row and None not in row.values()
            yield reader.line_num, row if is_whole else ValueError(f"a row must have {width} cells, as the header has")


def _check_header(path: Path, reader: csv.DictReader[str]) -> None:
    try:
        names = list(reader.fieldnames or ())
    except (csv.Error, UnicodeDecodeError, *BROKEN) as error:
        raise _not_csv(path, reader, error) from error
    own = reader.reader.dialect.delimiter
    others = [mark for mark in ",;\t|" if mark != own and mark in names[0]] if len(names) == 1 else []
    if others:
        expected = "commas" if own == "," else "tabs"
        way_out = {",": "; name a file with commas .csv", "\t": "; name a file with tabs .tsv"}.get(others[0], "")
        raise ValueError(
            f"{path}, line 1: columns are separated by {expected}, not {others[0]!r}, got {names[0]!r}{way_out}"
        )
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}, line 1: the column {repeated[0]!r} occurs twice; give each column its own name")


def _not_csv(path: Path, reader: csv.DictReader[str], error: Exception) -> ValueError:
    if isinstance(error, BROKEN):
        return ValueError(f"{path}, line {reader.line_num + 1}: cannot be read: {error}; {DAMAGED}")
    return ValueError(
        f"{path}, line {reader.line_num}: not CSV in UTF-8: {error}; save it again as UTF-8, or use JSON Lines"
    )


def read_parquet(path: Path) -> Iterator[Line]:
    """Yield one row per record, with its number in place of a line number."""
    import pyarrow
    import pyarrow.parquet

    try:
        with open_binary(path) as file:
            table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(file.read()) if path.suffix == ".gz" else file)
            yield from enumerate(_rows_of(table.iter_batches(batch_size=ROWS_AT_ONCE)), start=1)
    except (pyarrow.ArrowException, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a Parquet file, or a damaged one: {error}") from error


def _rows_of(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        yield from batch.to_pylist()


FORMATS: dict[str, Callable[[Path], Iterator[Line]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": partial(read_csv, delimiter="\t"),
    ".parquet": read_parquet,
}
READERS = {ending + packed: reader for ending, reader in FORMATS.items() for packed in ("", ".gz")}
ENDINGS = f"{', '.join(FORMATS)}, each also with .gz"  # for messages


def read_file(path: Path) -> Iterator[Line]:
    """Yield the rows of a file in the format that its ending names."""
    endings = [ending for ending in READERS if path.name.endswith(ending)]
    if not endings:
        raise ValueError(f"{path} must end in {ENDINGS}")
    try:
        yield from READERS[endings[0]](path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}; {DAMAGED}") from error
