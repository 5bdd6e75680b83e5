"""HH: answer as a helpful and harmless assistant, in a dialogue; people's preferences between two answers are known.

Bai et al. 2022, "Training a Helpful and Harmless Assistant": https://arxiv.org/abs/2204.05862
"""

from __future__ import annotations

import functools
import os
from typing import Any

from tril_gym.data.example import Example
from tril_gym.data.preferences import read_pair
from tril_gym.data.task import DataRow, Hub, Task, text_of
from tril_gym.envs.config import text_env_config

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
HELPFUL, HARMLESS = {"kind": "helpful"}, {"kind": "harmless"}


def read(row: DataRow) -> Example:
    """Read a dialogue, the chosen answer as its reference, and the rejected one and the kind as extras.

    An answer ends before a further turn of the person, as the texts of the environment do. Rows without a prompt are
    those of the public data set: two whole dialogues, which are the same up to the last turn.
    """
    row = dict(row)
    if row.get("prompt") is None:
        row |= split_dialogues(text_of(row, "chosen"), text_of(row, "rejected"))
    row |= {name: _answer(row[name]) for name in ("chosen", "rejected")}
    pair = read_pair(row)
    extras = dict(pair.extras) | ({} if row.get("kind") in (None, "") else {"kind": text_of(row, "kind")})
    if pair.messages:
        return Example(pair.prompt, references=pair.references, extras=extras, messages=pair.messages)
    prompt = pair.prompt.rstrip()
    if not prompt.endswith(ASSISTANT):
        raise ValueError(
            f"prompt must be a dialogue that ends in {ASSISTANT!r}, got {prompt[-80:]!r}; tril/Text-v0 takes prompts of"
            " any form"
        )
    return Example(prompt, references=pair.references, extras=extras, suffix=ASSISTANT)


def split_dialogues(chosen: str, rejected: str) -> dict[str, str]:
    """Return prompt, chosen and rejected answer of two dialogues that are the same up to an answer.

    Raises:
        ValueError: they have no turn of the assistant at which both begin to differ.
    """
    before, mark, _ = os.path.commonprefix([chosen, rejected]).rpartition(ASSISTANT)  # noqa: RUF071  (of characters)
    if not mark:
        raise ValueError(
            f"without a column prompt, chosen and rejected must be dialogues that are the same up to {ASSISTANT!r}, got"
            f" {chosen[:80]!r} and {rejected[:80]!r}"
        )
    prompt = before + mark
    return {"prompt": prompt, "chosen": chosen[len(prompt) :], "rejected": rejected[len(prompt) :]}


def _answer(value: Any) -> Any:
    """Return the text of an answer up to a further turn of the person; what is no text is returned as it is."""
    return value.partition(HUMAN)[0].strip() if isinstance(value, str) else value


HH = Task(
    name="hh",
    columns=("chosen", "rejected"),
    optional_columns=("prompt", "kind"),
    read=read,
    has_pairs=True,
    max_prompt_length=256,
    max_new_tokens=128,
    prompt_truncation_side="left",  # the last turn is what the assistant answers
    turn_marks=(HUMAN, ASSISTANT),
    stop=(HUMAN,),
    hub=Hub(
        repository="Anthropic/hh-rlhf",
        folders={
            "helpful-base": HELPFUL,
            "helpful-rejection-sampled": HELPFUL,
            "helpful-online": HELPFUL,
            "harmless-base": HARMLESS,
        },
    ),
)

hh_config = functools.partial(text_env_config, HH)
