"""Splits of data sets: which files hold them, and parts of the examples that a hash of the prompt chooses."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tril_gym.data.example import Example
from tril_gym.data.examples import Examples
from tril_gym.data.readers import ENDINGS, READERS
from tril_gym.utils.no_copy import NoCopy

SPLITS = ("train", "validation", "test")
HELD_OUT = 0.1  # share of the train examples that are the validation split of a data set without one
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"  # files that `save_to_disk` of `datasets` writes


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
