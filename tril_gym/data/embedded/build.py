"""Write the embedded data sets and their tokenizers: python -m tril_gym.data.embedded.build [FOLDER].

Each data set has a grammar (`imdb_grammar.py` and the other files of this form), a generator of rows without
repetition. The rows are divided into splits, and a byte-level BPE is trained on the texts of the train split, in the
form that the environments give them. The output is reproducible byte for byte: the seed is fixed, and the archives
store neither a time nor a file name.
"""

import gzip
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tril_gym.data.embedded import common_gen_grammar, hh_grammar, imdb_grammar, text_grammar, tldr_grammar
from tril_gym.data.splits import SPLITS
from tril_gym.data.tokenizers import train_tokenizer

VOCAB_SIZE = 1200  # every word of a grammar is one token
SEED = 1


@dataclass(frozen=True, slots=True)
class EmbeddedDataset:
    """How one data set is made."""

    examples: Callable[[random.Random], Iterator[dict]]
    sizes: tuple[int, int, int]  # rows in each of SPLITS
    texts: Callable[[dict], list[str]]  # prompt and completion of a row, as the environment writes them
    tokenizer_splits: tuple[str, ...] = ("train",)  # a small train split lacks words of the others
    prompt: Callable[[dict], str] | None = None  # of rows that differ, but may have the same


def common_gen_texts(row: dict) -> list[str]:
    """Return the prompt with each reference."""
    return [f"concepts: {' '.join(row['concepts'])}. sentence: {reference}" for reference in row["references"]]


def hh_texts(row: dict) -> list[str]:
    """Return the dialogue with the good answer, and with the poor one."""
    return [f"{row['prompt']} {row[answer]}" for answer in ("chosen", "rejected")]


def imdb_texts(row: dict) -> list[str]:
    """Return the review."""
    return [row["text"]]


def first_half(row: dict) -> str:
    """Return the half of a review that the environment shows."""
    words = row["text"].split()
    return " ".join(words[: (len(words) + 1) // 2])


def text_texts(row: dict) -> list[str]:
    """Return the question with its answer."""
    return [f"{row['prompt']} {row['answer']}"]


def tldr_texts(row: dict) -> list[str]:
    """Return the prompt with the summary, and the summary four times more, so that it counts beside the longer post."""
    prompt = "SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:".format(**row)
    return [f"{prompt} {row['summary']}"] + [f" {row['summary']}"] * 4


DATASETS = {
    "imdb": EmbeddedDataset(imdb_grammar.examples, (2000, 200, 200), imdb_texts, prompt=first_half),
    "common_gen": EmbeddedDataset(common_gen_grammar.examples, (3000, 200, 200), common_gen_texts),
    "tldr": EmbeddedDataset(tldr_grammar.examples, (5000, 200, 200), tldr_texts),
    "hh": EmbeddedDataset(hh_grammar.examples, (2000, 200, 200), hh_texts),
    "text": EmbeddedDataset(text_grammar.examples, (200, 50, 50), text_texts, SPLITS),
}


def make_splits(dataset: EmbeddedDataset) -> dict[str, list[dict]]:
    """Return the rows of each split, in a random order."""
    rng = random.Random(SEED)
    rows = dataset.examples(rng)
    made = {}
    for split, size in zip(SPLITS, dataset.sizes, strict=True):
        made[split] = list(islice(rows, size))
        rng.shuffle(made[split])  # the generator yields good and bad reviews in turn
    if dataset.prompt is not None:
        known = set(map(dataset.prompt, made["train"]))
        others = (row for row in rows if dataset.prompt(row) not in known)
        for split in SPLITS[1:]:
            for place, row in enumerate(made[split]):
                if dataset.prompt(row) in known:
                    made[split][place] = next(other for other in others if other["label"] == row["label"])
    return made


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    """Write rows as compressed JSON Lines."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with path.open("wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as archive:
        archive.write(lines.encode())


def build(folder: Path) -> None:
    """Write splits and tokenizer of every data set into a folder of its own below `folder`."""
    for name, dataset in DATASETS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        made = make_splits(dataset)
        for split, rows in made.items():
            write_rows(folder / name / f"{split}.jsonl.gz", rows)
        known = [row for split in dataset.tokenizer_splits for row in made[split]]
        tokenizer = train_tokenizer((text for row in known for text in dataset.texts(row)), VOCAB_SIZE)
        tokenizer.save(str(folder / name / "tokenizer.json"), pretty=False)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
