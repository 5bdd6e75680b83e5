"""Sources of examples: embedded data, the hub, a folder, a file, or objects. Each is loaded once per process."""

from __future__ import annotations

import functools
import hashlib
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tril_gym.data.example import Example, Examples
from tril_gym.data.readers import READERS, TOO_DEEP, Line, read_file
from tril_gym.data.task import Task
from tril_gym.data.tokenizers import EMBEDDED
from tril_gym.utils.no_copy import NoCopy, unwrap_no_copy
from tril_gym.utils.suggestions import path_with_suggestion

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
MAX_MESSAGE = 600  # characters about a row, whose values may be long
HELD_OUT = 0.1  # share of the train examples that are the validation split of a data set without one


def load_examples(
    task: Task, dataset: Any = "embedded", *, split: str | None = None, on_bad_row: str = "raise"
) -> Examples:
    """Return the examples of a data set.

    Args:
        task: which columns the rows have, and how they are read.
        dataset: "embedded", "hub", "hub:owner/name", a folder with train|validation|test.*, one .jsonl, .jsonl.gz, .csv
            or .parquet file, a sequence of `Example`, or a `datasets.Dataset`.
        split: one of `SPLITS`, "train" by default; only where the data set has splits.
        on_bad_row: "raise", or "skip" to leave malformed rows out, count them in `skipped` and log the count.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if on_bad_row not in ("raise", "skip"):
        raise ValueError(f'on_bad_row must be "raise" or "skip", got {on_bad_row!r}')
    dataset = unwrap_no_copy(dataset)
    if not isinstance(dataset, str | Path):
        return _from_object(task, dataset, split, on_bad_row)
    name = str(dataset)
    if name == "hub" or name.startswith("hub:"):
        repository = name.partition(":")[2] or task.hub.repository
        if not repository:
            raise ValueError(f"{task.name} has no public data set of its own; name one: hub:owner/name")
        return _from_hub(task, repository, split or "train", on_bad_row)
    if name == "embedded":
        return _from_file(task, EMBEDDED / task.name / f"{split or 'train'}.jsonl.gz", on_bad_row)
    path = Path(name).expanduser()
    if path.is_dir():
        return _from_file(task, file_of_split(path, split or "train"), on_bad_row)
    if not path.is_file():
        found = path_with_suggestion(name, ("embedded", "hub"))
        raise ValueError(
            f'dataset must be "embedded", "hub", "hub:owner/name", a folder or a file; {found} is none of these'
        )
    if split is not None:
        raise ValueError(f"split={split!r} needs a data set with splits, and {name} is one file; leave split out")
    return _from_file(task, path, on_bad_row)


def load_train_examples(task: Task, dataset: Any, *, on_bad_row: str = "raise") -> Examples:
    """Return the examples that a reward may fit on: the train split, or all where the data set has no splits."""
    return load_examples(task, dataset, on_bad_row=on_bad_row)


def hold_out(examples: Sequence[Example], *, share: float = HELD_OUT) -> tuple[list[Example], list[Example]]:
    """Split examples into (train, validation); a hash of the prompt decides, so the split is always the same."""

    def is_held_out(example: Example) -> bool:
        digest = hashlib.sha256(example.prompt.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") < share * 2**64

    held_out = [is_held_out(example) for example in examples]
    train = [example for example, held in zip(examples, held_out, strict=True) if not held]
    return train, [example for example, held in zip(examples, held_out, strict=True) if held]


def file_of_split(folder: Path, split: str) -> Path:
    """Return the file of a folder that holds a split."""
    found = [folder / f"{split}{ending}" for ending in READERS if (folder / f"{split}{ending}").is_file()]
    if len(found) > 1:
        raise ValueError(f"{folder} has {' and '.join(path.name for path in found)}; a split must be one file")
    if not found:
        others = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        endings = ", ".join(READERS)
        raise ValueError(
            f"{folder} has no {split} split: it needs one file {split} with the ending {endings}; it has {others}"
        )
    return found[0]


def to_examples(task: Task, lines: Iterable[Line], *, source: str, on_bad_row: str) -> Examples:
    """Turn rows into examples; a malformed one raises ValueError with its place and reason, or is skipped."""
    found, skipped, reason = [], 0, ""
    for number, row in lines:
        try:
            found.append(to_example(task, row))
        except ValueError as error:
            reason = reason or f"{source}, line {number}: {_shortened(str(error))}"
            if on_bad_row == "raise":
                raise ValueError(f'{reason} (on_bad_row="skip" leaves such rows out)') from error
            skipped += 1
    if not found:
        raise ValueError(f"{source} has no usable row: {reason or 'it is empty'}")
    if skipped:
        logger.warning(
            "%s: skipped %d malformed rows of %d; the first: %s", source, skipped, skipped + len(found), reason
        )
    return Examples(task.gather(found), source=source, skipped=skipped)


def _shortened(message: str) -> str:
    """Return a message without the middle of a long value in it."""
    half = MAX_MESSAGE // 2
    return message if len(message) <= MAX_MESSAGE else f"{message[:half]} … {message[-half:]}"


def to_example(task: Task, row: dict[str, Any] | ValueError) -> Example:
    """Turn a row into an example; raise ValueError with the reason where that fails."""
    if isinstance(row, ValueError):
        raise row
    row = rename_columns(task, row)
    for column in task.columns:
        if column not in row:
            published = f" (or {task.hub.columns[column]!r})" if column in task.hub.columns else ""
            raise ValueError(
                f"there is no column {column!r}{published}; found {', '.join(map(str, row))},"
                f" and {task.name} has {', '.join(task.columns)}"
            )
    try:
        return task.read(row)
    except RecursionError as error:  # while a message is written
        raise ValueError(TOO_DEEP) from error


def rename_columns(task: Task, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with our names of the columns in place of those of the public data set.

    Where the public data set has one reference in each row, it becomes a list; "" stands in test sets without one.
    """
    named = dict(row)
    for ours, theirs in task.hub.columns.items():
        if ours not in row and theirs in row:
            named[ours] = named.pop(theirs)
            if ours in task.list_columns and isinstance(named[ours], str):
                named[ours] = [named[ours]] if named[ours] else []
    return named


def _from_file(task: Task, path: Path, on_bad_row: str) -> Examples:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    stat = path.stat()
    return _read_once(task, path.resolve(), stat.st_mtime_ns, stat.st_size, on_bad_row)


@functools.lru_cache(maxsize=16)
def _read_once(task: Task, path: Path, mtime: int, size: int, on_bad_row: str) -> Examples:
    """Read a file once, until its modification time or size changes."""
    return to_examples(task, read_file(path), source=str(path), on_bad_row=on_bad_row)


def _from_object(task: Task, dataset: Any, split: str | None, on_bad_row: str) -> Examples:
    datasets = sys.modules.get("datasets")  # imported already if `dataset` is one of its objects
    if datasets is not None and isinstance(dataset, datasets.DatasetDict):
        if (split or "train") not in dataset:
            raise ValueError(f"the DatasetDict has no split {split or 'train'!r}; it has {', '.join(dataset)}")
        return _convert_once(task, NoCopy(dataset[split or "train"]), on_bad_row)
    if split is not None:
        raise ValueError(f"split={split!r} needs a data set with splits, and a {type(dataset).__name__} has none")
    if isinstance(dataset, Examples):
        return dataset
    if datasets is not None and isinstance(dataset, datasets.Dataset):
        return _convert_once(task, NoCopy(dataset), on_bad_row)
    if not isinstance(dataset, Sequence) or not all(isinstance(example, Example) for example in dataset):
        raise ValueError(
            "dataset must be a name, a folder, a file, a list of tril_gym.data.Example or a datasets.Dataset,"
            f" got {type(dataset).__name__}"
        )
    return _wrap_once(tuple(map(NoCopy, dataset)))


@functools.lru_cache(maxsize=8)
def _convert_once(task: Task, dataset: NoCopy, on_bad_row: str) -> Examples:
    """Convert a `datasets.Dataset` once; it is immutable."""
    rows: Any = dataset.value
    lines = enumerate(rows, start=1)
    return to_examples(task, lines, source=f"the {type(rows).__name__}", on_bad_row=on_bad_row)


@functools.lru_cache(maxsize=8)
def _wrap_once(examples: tuple[NoCopy, ...]) -> Examples:
    """Return the same `Examples`, with their tokenised prompts, for every list of the same example objects."""
    return Examples((unwrap_no_copy(example) for example in examples), source="the list of examples")


@functools.lru_cache(maxsize=8)
def _from_hub(task: Task, repository: str, split: str, on_bad_row: str) -> Examples:
    """Load a public data set; without a validation split, a part of its train split is held out."""
    available = _query_hub(repository, lambda datasets: datasets.get_dataset_split_names(repository))
    hub_split = split
    if split == "validation" and split not in available:
        hub_split = next((name for name in ("valid", "val", "dev") if name in available), "train")
    if hub_split not in available:
        raise ValueError(f"{repository} has no split {split!r}; it has {', '.join(available)}")
    table = _query_hub(repository, lambda datasets: datasets.load_dataset(repository, split=hub_split))
    source = f"{repository} ({hub_split} split)"
    examples = to_examples(task, enumerate(table, start=1), source=source, on_bad_row=on_bad_row)
    if hub_split == "train" and not set(available) & {"validation", "valid", "val", "dev"}:
        train, validation = hold_out(examples)
        return Examples(train if split == "train" else validation, source=source, skipped=examples.skipped)
    return examples


def _query_hub(repository: str, query: Callable[[Any], Any]) -> Any:
    import datasets  # slow to import

    try:
        return query(datasets)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"could not load {repository} from the Hugging Face hub: {error}; dataset= also takes a folder or a file"
        ) from error
