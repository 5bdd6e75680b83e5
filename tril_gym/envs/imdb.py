"""IMDB: continue the first half of a film review, with positive sentiment.

The reference is the second half of the same review; from the whole review a policy would learn to repeat its prompt.
"""

from __future__ import annotations

import functools
import re
from numbers import Integral

from tril_gym.data.example import Example
from tril_gym.data.task import DataRow, Hub, Task, text_of
from tril_gym.envs.config import text_env_config

LABELS = {0: 0, 1: 1, "0": 0, "1": 1}  # a CSV file has strings only


def read(row: DataRow) -> Example:
    """Cut a review after half of its words; every character is kept except the white space at the cut."""
    text = text_of(row, "text").strip()
    words = [word.span() for word in re.finditer(r"\S+", text)]
    if len(words) < 2:
        raise ValueError(f"text must have two words or more, got {text!r}")
    half = (len(words) + 1) // 2
    label = row["label"]
    if not isinstance(label, Integral | str) or isinstance(label, bool) or label not in LABELS:
        raise ValueError(f"label must be 1 (positive) or 0 (negative), got {label!r}")
    return Example(text[: words[half - 1][1]], references=(text[words[half][0] :],), label=LABELS[label])


IMDB = Task(
    name="imdb",
    columns=("text", "label"),
    read=read,
    cuts_references=True,
    max_prompt_length=64,
    max_new_tokens=48,
    prompt_truncation_side="left",  # the completion continues the end of the prompt
    hub=Hub(repository="stanfordnlp/imdb"),
)

imdb_config = functools.partial(text_env_config, IMDB)
