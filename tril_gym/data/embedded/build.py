"""Write the embedded data sets and their tokenizers: python -m tril_gym.data.embedded.build [FOLDER].

Each task has a grammar (`imdb_grammar.py`, `common_gen_grammar.py`, `tldr_grammar.py`), a generator of rows that never
repeats one. The rows are cut into splits, and a byte-level BPE is trained on the train split, worded as the
environments word it. The same code gives the same bytes: the seed is fixed, archives hold neither a time nor a name.
"""

import gzip
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tril_gym.data.embedded import common_gen_grammar, imdb_grammar, tldr_grammar
from tril_gym.data.tokenizers import train_tokenizer

SPLITS = ("train", "validation", "test")
VOCAB_SIZE = 1000  # enough for nearly every word of a grammar to be one token
SEED = 1


@dataclass(frozen=True, slots=True)
class Task:
    """How one task's data come about."""

    examples: Callable[[random.Random], Iterator[dict]]
    sizes: tuple[int, int, int]  # rows in each of SPLITS
    texts: Callable[[dict], list[str]]  # a row as the environment words it, prompt and completion


def common_gen_texts(row: dict) -> list[str]:
    """The prompt with each reference."""
    return [f"concepts: {' '.join(row['concepts'])}. sentence: {reference}" for reference in row["references"]]


def imdb_texts(row: dict) -> list[str]:
    """The review."""
    return [row["text"]]


def tldr_texts(row: dict) -> list[str]:
    """The prompt with the summary, and the summary again: a post's many words must not use up the vocabulary."""
    prompt = "SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:".format(**row)
    return [f"{prompt} {row['summary']}"] + [f" {row['summary']}"] * 4


TASKS = {
    "imdb": Task(imdb_grammar.examples, (2000, 200, 200), imdb_texts),
    "common_gen": Task(common_gen_grammar.examples, (3000, 200, 200), common_gen_texts),
    "tldr": Task(tldr_grammar.examples, (2000, 200, 200), tldr_texts),
}


def splits(task: Task) -> dict[str, list[dict]]:
    """The rows of each split, in a random order."""
    rng = random.Random(SEED)
    rows = task.examples(rng)
    made = {}
    for split, size in zip(SPLITS, task.sizes, strict=True):
        made[split] = list(islice(rows, size))
        rng.shuffle(made[split])  # the reviews come good and bad in turn
    return made


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    """Write rows as compressed JSON Lines."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with path.open("wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as archive:
        archive.write(lines.encode())


def build(folder: Path) -> None:
    """Write every task's splits and tokenizer into `folder`, one folder a task."""
    for name, task in TASKS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        made = splits(task)
        for split, rows in made.items():
            write_rows(folder / name / f"{split}.jsonl.gz", rows)
        tokenizer = train_tokenizer((text for row in made["train"] for text in task.texts(row)), VOCAB_SIZE)
        tokenizer.save(str(folder / name / "tokenizer.json"), pretty=False)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
