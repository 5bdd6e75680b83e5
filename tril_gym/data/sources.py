"""Sources of examples: embedded data, the hub, a folder, a file, or objects. Each is loaded once per process."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tril_gym.data.example import Example
from tril_gym.data.examples import PLAIN, Examples
from tril_gym.data.readers import ENDINGS, READERS, ROWS_AT_ONCE, TOO_DEEP, Line, read_file
from tril_gym.data.task import Task
from tril_gym.data.tokenizers import EMBEDDED
from tril_gym.utils.config_fields import check_choice
from tril_gym.utils.lru_cache import LRUCache
from tril_gym.utils.no_copy import NoCopy, unwrap_no_copy
from tril_gym.utils.suggestions import path_with_suggestion, suggestion, with_suggestion

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
VALIDATION_NAMES = ("validation", "valid", "val", "dev")  # on the hub
SKIP_ROWS = 'on_bad_row="skip" leaves such rows out: --env-arg on_bad_row=skip, for reward models --on-bad-row skip'
MAX_MESSAGE = 600  # characters about a row, whose values may be long
HELD_OUT = 0.1  # share of the train examples that are the validation split of a data set without one
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"  # files that `save_to_disk` of `datasets` writes
OBJECTS = "a list of dictionaries or of tril_gym.data.Example, a pandas.DataFrame, a datasets.Dataset or DatasetDict"

_converted = LRUCache[Any, Examples](size=8)


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


def has_splits(dataset: str | Path) -> bool:
    """Return whether a data set that is named has splits: a file and a single table that was saved have none."""
    path = Path(dataset).expanduser()
    return not (path.is_file() or (path.is_dir() and (path / SAVED).is_file()))


def is_saved(folder: Path) -> bool:
    """Return whether `save_to_disk` of `datasets` wrote a folder."""
    return any((folder / name).is_file() for name in (SAVED, SAVED_SPLITS))


def has_split(folder: Path, split: str) -> bool:
    """Return whether a folder with splits has this one."""
    if is_saved(folder):
        return (folder / split).is_dir()
    return any((folder / f"{split}{ending}").is_file() for ending in READERS)


def hold_out(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Split examples into (train, validation); a hash of the prompt decides, so the split is always the same."""
    train: list[Example] = []
    validation: list[Example] = []
    for example in examples:
        (validation if is_held_out(example.prompt) else train).append(example)
    return train, validation


def is_held_out(prompt: str) -> bool:
    """Return whether an example with this prompt belongs to the part that is held out; a hash decides."""
    return _hashed(prompt) < HELD_OUT * 2**64


def _hashed(text: str) -> int:
    """Return a number below 2**64 that looks drawn at random, always the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def part_of(examples: Examples, part: Sequence[float] | None) -> Examples:
    """Return the examples whose prompts a hash puts between two shares: (0, 0.7) and (0.7, 1) divide the examples.

    None takes all.

    Raises:
        ValueError: the shares are not 0 ≤ start < stop ≤ 1, or no example lies between them.
    """
    if part is None:
        return examples
    if not _is_part(part):
        raise ValueError(f"part must be two shares, 0 ≤ start < stop ≤ 1, such as (0.7, 1.0), got {part!r}")
    found = _part_once(NoCopy(examples), float(part[0]), float(part[1]))
    if not found:
        raise ValueError(f"part {tuple(part)} of the {len(examples)} examples of {examples.source} is empty")
    return found


def _is_part(part: Any) -> bool:
    is_pair = isinstance(part, Sequence) and not isinstance(part, str) and len(part) == 2
    return is_pair and all(isinstance(share, float | int) for share in part) and 0 <= part[0] < part[1] <= 1


@functools.lru_cache(maxsize=8)
def _part_once(examples: NoCopy, start: float, stop: float) -> Examples:
    whole: Any = examples.value
    # With another hash than that of `is_held_out`, so that a part of what is not held out has its share.
    shares = (_hashed(f"part {prompt}") / 2**64 for prompt in whole.prompts())
    source = f"part {start:g} to {stop:g} of {whole.source}"
    part: Examples = whole.select([start <= share < stop for share in shares], source=source, held_out=whole.held_out)
    return part


def file_of_split(folder: Path, split: str) -> Path:
    """Return the file of a folder that holds a split."""
    found = [folder / f"{split}{ending}" for ending in READERS if (folder / f"{split}{ending}").is_file()]
    if len(found) > 1:
        raise ValueError(f"{folder} has {' and '.join(path.name for path in found)}; a split must be one file")
    if not found:
        others = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise ValueError(
            f"{folder} has no {split} split: it needs one file {split} with the ending {ENDINGS}; it has {others}"
        )
    return found[0]


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
    without one.

    Raises:
        ValueError: a column that `columns` names is missing.
    """
    for ours, theirs in columns:
        if theirs not in row:
            raise ValueError(
                f"there is no column {theirs!r}{suggestion(theirs, row)}, which column= (--column) names for {ours!r};"
                f" found {', '.join(map(str, row))}"
            )
    named, given = dict(row), dict(columns)
    known = given.keys() | row.keys()
    pairs = columns + tuple(pair for pair in task.hub.columns.items() if pair[0] not in known and pair[1] in row)
    for _, theirs in pairs:
        named.pop(theirs, None)
    for ours, theirs in pairs:
        cell = named[ours] = row[theirs]
        if ours in task.list_columns and isinstance(cell, str) and not (ours in given and _is_json_list(cell)):
            named[ours] = [cell] if cell else []
    return named


def _is_json_list(cell: str) -> bool:
    try:
        return isinstance(json.loads(cell), list)
    except (ValueError, RecursionError):
        return False


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
    return rows


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
