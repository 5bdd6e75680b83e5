"""Sources of examples: embedded data, the hub, a folder, a file, or objects. Each is loaded once per process."""

from __future__ import annotations

import functools
import hashlib
import logging
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from tril_gym.data.example import Example
from tril_gym.data.examples import Examples
from tril_gym.data.readers import ROWS_AT_ONCE, read_file
from tril_gym.data.rows import RowReader, to_examples
from tril_gym.data.splits import (
    SAVED,
    SAVED_SPLITS,
    SPLITS,
    file_of_split,
    has_split,
    has_splits,
    is_held_out,
    is_saved,
)
from tril_gym.data.task import Task
from tril_gym.data.tokenizers import EMBEDDED
from tril_gym.utils.config_fields import check_choice
from tril_gym.utils.lru_cache import LRUCache
from tril_gym.utils.no_copy import NoCopy, unwrap_no_copy
from tril_gym.utils.suggestions import path_with_suggestion

logger = logging.getLogger(__name__)

VALIDATION_NAMES = ("validation", "valid", "val", "dev")  # on the hub
OBJECTS = "a list of dictionaries or of tril_gym.data.Example, a pandas.DataFrame, a datasets.Dataset or DatasetDict"

_converted = LRUCache[Any, Examples](size=8)


def load_examples(
    task: Task,
    dataset: Any = "embedded",
    *,
    split: str | None = None,
    on_bad_row: str = "raise",
    column: Mapping[str, str] | None = None,
) -> Examples:
    """Return the examples of a data set.

    Args:
        task: which columns the rows have, and how they are read.
        dataset: "embedded", "hub", "hub:owner/name", "hub:owner/name/folder" (one folder of a repository), a folder
            with train|validation|test.*, a folder that `save_to_disk` wrote, one file of a format of `READERS`, a list
            of dictionaries or of `Example`, a `pandas.DataFrame`, a `datasets.Dataset` or a `DatasetDict`.
        split: one of `SPLITS`, only where the data set has splits; None takes "train", or all where it has none.
        on_bad_row: "raise", or "skip" to leave malformed rows out, count them in `skipped` and log the count.
        column: names in the data by the task's names of columns, where they differ.
    """
    if split is not None:
        check_choice("split", split, SPLITS)
    reader = RowReader.of(task, column, on_bad_row)
    dataset = unwrap_no_copy(dataset)
    if not isinstance(dataset, str | Path):
        return _from_object(reader, dataset, split)
    name = str(dataset)
    if name == "hub" or name.startswith("hub:"):
        repository = name.partition(":")[2] or task.hub.repository
        if not repository:
            raise ValueError(f"{task.name} has no public data set of its own; name one: hub:owner/name")
        return _from_hub(reader, repository, split or "train")
    if name == "embedded":
        return _from_file(reader, EMBEDDED / task.name / f"{split or 'train'}.jsonl.gz")
    path = Path(name).expanduser()
    if not path.exists():
        found = path_with_suggestion(name, ("embedded", "hub"))
        raise ValueError(
            f'dataset must be "embedded", "hub", "hub:owner/name", a folder or a file; {found} is none of these'
        )
    if split is not None and not has_splits(path):
        what = "one file" if path.is_file() else "one table"
        raise ValueError(f"split={split!r} needs a data set with splits, and {name} is {what}; leave split out")
    if is_saved(path):
        return _from_saved(reader, path, split)
    return _from_file(reader, file_of_split(path, split or "train") if path.is_dir() else path)


def _from_file(reader: RowReader, path: Path) -> Examples:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    stat = path.stat()
    return _read_once(reader, path.resolve(), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=16)
def _read_once(reader: RowReader, path: Path, mtime: int, size: int) -> Examples:
    """Read a file once, until its modification time or size changes."""
    return to_examples(reader, read_file(path), source=str(path))


def _from_saved(reader: RowReader, folder: Path, split: str | None) -> Examples:
    """Read a folder that `save_to_disk` wrote."""
    if (folder / SAVED_SPLITS).is_file():
        if not has_split(folder, split or "train"):
            found = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())) or "nothing"
            raise ValueError(f"{folder} has no {split or 'train'} split; it has {found}")
        folder = folder / (split or "train")
    return _read_saved_once(reader, folder.resolve(), (folder / SAVED).stat().st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _read_saved_once(reader: RowReader, folder: Path, mtime: int) -> Examples:
    import datasets  # slow to import

    try:
        table = datasets.load_from_disk(str(folder))
    except Exception as error:  # of pyarrow or datasets, whatever is damaged
        raise ValueError(f"{folder} cannot be read as save_to_disk writes it: {error}") from error
    return to_examples(reader, enumerate(_rows_of_table(table), start=1), source=str(folder))


def _rows_of_table(table: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a `datasets.Dataset`, many at once, which takes a tenth of the time."""
    if table.format["type"] != "custom":  # a transform of the user's
        table = table.with_format(None)
    for batch in table.iter(batch_size=ROWS_AT_ONCE):
        names = list(batch)
        yield from (dict(zip(names, values, strict=True)) for values in zip(*batch.values(), strict=True))


def _rows_of_frame(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of a `pandas.DataFrame`, with None for missing values."""
    if not frame.columns.is_unique:
        repeated = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(f"the DataFrame has the column {repeated!r} twice; give each column its own name")
    rows: list[dict[str, Any]] = frame.astype(object).mask(frame.isna(), None).to_dict("records")
    return [{name: _as_lists(cell) for name, cell in row.items()} for row in rows]


def _as_lists(cell: Any) -> Any:
    """Return a cell with lists in place of the arrays of objects in which `read_parquet` of pandas returns them."""
    if isinstance(cell, np.ndarray) and cell.dtype == object:
        return [_as_lists(item) for item in cell]
    if isinstance(cell, dict):
        return {name: _as_lists(item) for name, item in cell.items()}
    return [_as_lists(item) for item in cell] if isinstance(cell, list) else cell


def _from_object(reader: RowReader, dataset: Any, split: str | None) -> Examples:
    datasets = sys.modules.get("datasets")  # imported already if `dataset` is one of its objects
    if datasets is not None and isinstance(dataset, datasets.DatasetDict):
        if (split or "train") not in dataset:
            raise ValueError(f"the DatasetDict has no split {split or 'train'!r}; it has {', '.join(dataset)}")
        return _convert_once(reader, NoCopy(dataset[split or "train"]))
    if split is not None:
        raise ValueError(f"split={split!r} needs a data set with splits, and a {type(dataset).__name__} has none")
    if isinstance(dataset, Examples):
        return dataset
    if datasets is not None and isinstance(dataset, datasets.Dataset):
        return _convert_once(reader, NoCopy(dataset))
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(dataset, pandas.DataFrame):
        return _convert_rows(reader, _rows_of_frame(dataset), "the DataFrame")
    if isinstance(dataset, Sequence) and not isinstance(dataset, bytes):
        if all(isinstance(example, Example) for example in dataset):
            return _wrap_once(tuple(map(NoCopy, dataset)))
        if all(isinstance(row, Mapping) for row in dataset):
            return _convert_rows(reader, list(map(dict, dataset)), "the list of rows")
    raise ValueError(f"dataset must be a name, a folder, a file, {OBJECTS}, got {_kind_of(dataset)}")


def _kind_of(dataset: Any) -> str:
    """Return in words what is no data set."""
    kind = type(dataset).__name__
    if not isinstance(dataset, list | tuple):
        return kind
    return f"a {kind} of {' and '.join(sorted({type(item).__name__ for item in dataset})[:3])}"


@functools.lru_cache(maxsize=8)
def _convert_once(reader: RowReader, dataset: NoCopy) -> Examples:
    """Convert a `datasets.Dataset` once; it is immutable."""
    table: Any = dataset.value
    rows = enumerate(_rows_of_table(table), start=1)
    return to_examples(reader, rows, source=f"the {type(table).__name__}")


def _convert_rows(reader: RowReader, rows: list[dict[str, Any]], source: str) -> Examples:
    """Convert rows once for each content, since they may change between two calls."""

    def convert(rows: Iterable[dict[str, Any]]) -> Examples:
        return to_examples(reader, enumerate(rows, start=1), source=source)

    def pickles() -> Iterator[bytes]:
        return (pickle.dumps(rows[first : first + ROWS_AT_ONCE]) for first in range(0, len(rows), ROWS_AT_ONCE))

    digest = hashlib.sha256()
    try:
        for pickled in pickles():
            digest.update(pickled)
    except Exception:  # whatever an object of the user's raises that cannot be pickled
        return convert(rows)
    # Of copies, since the user may change a list in a row, and the examples are kept under the content that it had.
    copies = chain.from_iterable(map(pickle.loads, pickles()))
    return _converted.get((reader, source, digest.digest()), lambda: convert(copies))


@functools.lru_cache(maxsize=8)
def _wrap_once(examples: tuple[NoCopy, ...]) -> Examples:
    """Return the same `Examples`, with their tokenised prompts, for every list of the same example objects."""
    found: list[Any] = [unwrap_no_copy(example) for example in examples]
    return Examples(found, source="the list of examples")


@functools.lru_cache(maxsize=8)
def _from_hub(reader: RowReader, source: str, split: str) -> Examples:
    """Load a public data set; without a validation split, a part of its train split is held out."""
    repository, folders = _hub_folders(reader.task, source)
    first = next(iter(folders))
    available = _query_hub(source, lambda hub: hub.get_dataset_split_names(repository, data_dir=first))
    hub_split = split
    if split == "validation":
        hub_split = next((name for name in VALIDATION_NAMES if name in available), "train")
    if hub_split not in available:
        raise ValueError(f"{source} has no split {split!r}; it has {', '.join(available)}")

    def load(folder: str | None) -> Any:
        return _query_hub(source, lambda hub: hub.load_dataset(repository, data_dir=folder, split=hub_split))

    tables = {folder: load(folder) for folder in folders}
    rows = chain.from_iterable(
        (row | dict(folders[folder]) for row in _rows_of_table(table)) for folder, table in tables.items()
    )
    description = f"{source} ({hub_split} split)"
    examples = to_examples(reader, enumerate(rows, start=1), source=description)
    if hub_split == "train" and set(available).isdisjoint(VALIDATION_NAMES):
        held_out = [is_held_out(prompt) for prompt in examples.prompts()]
        chosen = held_out if split == "validation" else [not held for held in held_out]
        part = examples.select(chosen, source=description)
        part.skipped = examples.skipped
        return part
    return examples


def _hub_folders(task: Task, source: str) -> tuple[str, Mapping[str | None, Mapping[str, str]]]:
    """Return the repository of owner/name or owner/name/folder, and the folders to read with the columns they add."""
    known: dict[str | None, Mapping[str, str]] = {folder: task.hub.folders[folder] for folder in task.hub.folders}
    if source == task.hub.repository and known:
        return source, known
    owner, name, *folder = source.split("/", 2)
    if not (folder and owner) or owner.startswith((".", "~")):  # owner/name, or a folder of this machine
        return source, {None: {}}
    repository = f"{owner}/{name}"
    return repository, {folder[0]: known.get(folder[0], {}) if repository == task.hub.repository else {}}


def _query_hub(source: str, query: Callable[[Any], Any]) -> Any:
    import datasets  # slow to import

    try:
        return query(datasets)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"could not load {source} from the Hugging Face hub: {error}; dataset= also takes a folder or a file"
        ) from error
