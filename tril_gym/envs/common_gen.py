"""CommonGen: write a sentence that mentions a few given concepts."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace

from tril_gym.data.example import Example
from tril_gym.data.task import DataRow, Hub, Task, text_of, texts_of
from tril_gym.envs.config import text_env_config
from tril_gym.utils.templates import literals

PROMPT = "concepts: {concepts}. sentence:"


def read(row: DataRow, *, template: str = PROMPT) -> Example:
    """Read the concepts of a row and its reference sentences, which a test set may lack.

    Args:
        row: of the data set.
        template: format of the prompt, of the concepts with spaces between.
    """
    if isinstance(row["concepts"], str):
        text_of(row, "concepts")
    concepts = texts_of(row, "concepts")
    if not concepts:
        raise ValueError("concepts must name one concept or more, got an empty list")
    prompt, suffix = template.format(concepts=" ".join(concepts)), literals(template)[-1]
    return Example(prompt, references=tuple(texts_of(row, "references")), extras={"concepts": concepts}, suffix=suffix)


def gather(examples: Iterable[Example]) -> Iterable[Example]:
    """Join the examples of each concept set: the first one's order of concepts, the references of all."""
    joined: dict[frozenset[str], Example] = {}
    for example in examples:
        concepts = frozenset(example.extras["concepts"])
        first = joined.setdefault(concepts, example)
        if first is not example:
            # a dictionary keeps the order and removes repeated sentences
            joined[concepts] = replace(first, references=tuple(dict.fromkeys(first.references + example.references)))
    return joined.values()


COMMON_GEN = Task(
    name="common_gen",
    columns=("concepts", "references"),
    read=read,
    prompt_template=PROMPT,
    gather=gather,
    list_columns=("concepts", "references"),
    max_prompt_length=20,
    max_new_tokens=20,
    prompt_truncation_side="right",
    hub=Hub(repository="allenai/common_gen", columns={"references": "target"}),
)

common_gen_config = functools.partial(text_env_config, COMMON_GEN)
