"""Preference pairs, the training data of a reward model: two completions of a prompt, one of which people preferred.

Rows have the columns `prompt`, `chosen` and `rejected`; they are read as the examples of a task are. A prompt may be a
chat, a list of messages.

N pairs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tril_gym.data.chats import assistant_text, messages_of, transcript
from tril_gym.data.example import Example, check_text
from tril_gym.data.examples import Examples
from tril_gym.data.readers import ENDINGS
from tril_gym.data.sources import load_examples
from tril_gym.data.splits import HELD_OUT, has_split, has_splits, hold_out
from tril_gym.data.task import DataRow, Hub, Task, text_of
from tril_gym.utils.chats import Message
from tril_gym.utils.tokenization import joiner_between

MIN_TRAIN = 8  # pairs
Margins = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt, the preferred completion, and the other one."""

    prompt: str
    chosen: str
    rejected: str
    messages: tuple[Message, ...] = ()  # the chat of which the prompt is a transcript


@dataclass(frozen=True, slots=True)
class PairData:
    """Training pairs, held-out pairs, and a description of the held-out ones for messages."""

    train: tuple[Pair, ...]
    held_out: tuple[Pair, ...]
    source: str


def read(row: DataRow) -> Example:
    """Read a pair as an example whose reference is the chosen completion; both begin as policies begin them."""
    return with_joiner(read_pair(row))


def read_pair(row: DataRow) -> Example:
    """Read a pair as an example whose reference is the chosen completion and whose extras have the rejected one."""
    row = dict(row) | {name: assistant_text(row[name]) for name in ("chosen", "rejected")}
    messages = messages_of(row["prompt"])
    prompt = transcript(messages) if messages else row["prompt"]
    chosen, rejected = text_of(row, "chosen"), text_of(row, "rejected")
    if not isinstance(prompt, str):
        raise ValueError(f"prompt must be a text, got {prompt!r}")
    if chosen == rejected:
        raise ValueError(f"chosen and rejected must differ, got {chosen!r} twice; leave such pairs out")
    check_text("rejected", rejected)
    return Example(prompt, references=(chosen,), extras={"rejected": rejected}, messages=messages)


def with_joiner(example: Example) -> Example:
    """Return a pair whose completions begin as policies begin them.

    A chat template writes its own separator before the assistant's message.
    """
    chosen, rejected = example.references[0], example.extras["rejected"]
    joiner = "" if example.messages else joiner_between(example.prompt, chosen, rejected)
    extras = dict(example.extras) | {"rejected": joiner + rejected}
    return replace(example, references=(joiner + chosen,), extras=extras)


PAIRS = Task(
    name="a preference pair",
    columns=("prompt", "chosen", "rejected"),
    read=read,
    has_pairs=True,
    max_prompt_length=512,
    max_new_tokens=128,
    prompt_truncation_side="left",
    hub=Hub(repository=""),  # no default: the user names one
)


def load_pairs(
    dataset: str | Path, *, task: Task = PAIRS, on_bad_row: str = "raise", column: Mapping[str, str] | None = None
) -> PairData:
    """Return the pairs of a data set.

    Without a validation split, a tenth of the prompts is held out. A hash of the prompt decides, so the split is always
    the same, and all pairs of a prompt are on one side.

    Args:
        dataset: a file, a folder with train.* and optionally validation.*, "hub:owner/name", or where the task has
            them "embedded" and "hub".
        task: how the rows are read.
        on_bad_row: "raise", or "skip" to leave malformed rows out.
        column: names in the data of prompt, chosen and rejected, where they differ.

    Raises:
        ValueError: the data set does not exist, a row is malformed, or there are too few pairs.
    """
    name, path = str(dataset), Path(dataset).expanduser()
    load = functools.partial(load_examples, task, name, on_bad_row=on_bad_row, column=column)
    is_named = name in (("embedded", "hub") if task.hub.repository else ())
    is_named |= name.startswith("hub:") and name != "hub:"
    if not (is_named or path.exists()):
        raise ValueError(
            f"there is no file or folder {name}; --dataset takes pairs in a file ({ENDINGS}), a folder with train.* and"
            " validation.*, or hub:owner/name"
        )
    if is_named or (path.is_dir() and has_splits(path) and has_split(path, "validation")):
        train_part, held_out_part = (load(split=split) for split in ("train", "validation"))
        return _checked(train_part, held_out_part, f"the validation part of {name}", name)
    whole = load(split="train" if has_splits(path) else None)
    train, held_out = hold_out(whole)
    words = f"{len(held_out)} of the {len(whole)} pairs of {name}, chosen by a hash of the prompt ({HELD_OUT:.0%})"
    return _checked(train, held_out, words, name)


def _checked(train: Examples | list[Example], held_out: Examples | list[Example], source: str, name: str) -> PairData:
    if len(train) < MIN_TRAIN or not held_out:
        raise ValueError(
            f"too few pairs in {name}: {len(train)} to learn from and {len(held_out)} held out, at least {MIN_TRAIN}"
            " and 1 are needed; add pairs with other prompts, or give a folder with train.* and validation.*"
        )
    return PairData(tuple(map(pair_of, train)), tuple(map(pair_of, held_out)), source)


def pair_of(example: Example) -> Pair:
    """Return an example with a rejected completion as a pair, whose completions begin as policies begin them."""
    example = with_joiner(example)
    return Pair(example.prompt, example.references[0], example.extras["rejected"], example.messages)


def length_margins(pairs: Sequence[Pair]) -> Margins:
    """Return by how many characters the chosen completion is longer, (N,): the margins of a length-only scorer."""
    return np.array([len(pair.chosen) - len(pair.rejected) for pair in pairs], dtype=np.float64)


def is_right(margins: Margins) -> Margins:
    """Return 1 where the chosen completion has the higher score, 1/2 for a tie, else 0: (N,) -> (N,)."""
    return (margins > 0) + 0.5 * (margins == 0)


def mean_and_error(values: Margins) -> dict[str, float | int | None]:
    """Return the mean of N values, its standard error and N; None for a mean of none and an error of fewer than two."""
    number = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(number) if number > 1 else None
    return {"mean": float(values.mean()) if number else None, "standard_error": error, "pairs": number}


def agreement(margins: Margins, pairs: Sequence[Pair]) -> dict[str, dict[str, float | int | None]]:
    """Return the accuracy of a reward model, beside that of a scorer that prefers the longer completion.

    `chosen_is_shorter` is the accuracy on the pairs on which that scorer is always wrong; `difference` is the reward
    model's accuracy less the scorer's, with the standard error of the paired difference.

    Args:
        margins: (N,) reward of the chosen completion less that of the rejected one.
        pairs: the N pairs.
    """
    longer = length_margins(pairs)
    right, by_length = is_right(margins), is_right(longer)
    return {
        "reward_model": mean_and_error(right),
        "longer_is_better": mean_and_error(by_length),
        "difference": mean_and_error(right - by_length),
        "chosen_is_shorter": mean_and_error(right[longer < 0]),
    }
