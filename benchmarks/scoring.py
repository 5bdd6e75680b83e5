"""CIDEr-D beside the caption toolkit's: the same tokens, the same document frequencies, the same scores.

Needs `pip install pycocoevalcap` and CommonGen: a folder with train.jsonl.gz, whose document frequencies are counted,
and validation.jsonl.gz, whose captions are scored; lines with lists of `references`.

Batches of 64 completions with 4 references each are scored, ten in a turn, the contestants in alternation: the
toolkit's inner scorer with our words and document frequencies, ours with references that were seen before (as in
training, where examples come back), and ours with new ones; where there is Java, also the toolkit as it is called, with
its own tokenizer and frequencies of the batch. All begin with the texts. With --batches 10 the ten are different ones,
whose references the processor's cache does not hold.

    python benchmarks/scoring.py commongen [--output figures.json]
"""

from __future__ import annotations

import gzip
import json
import platform
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from tril_gym import rewards
from tril_gym.rewards.text.cider import CiderD, words_of

BATCH, REFERENCES, TURN = 64, 4, 10
SEEN = "ours, references seen before"

Batch = tuple[list[str], list[list[str]]]  # completions, and the references of each


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--batches", default=1, show_default=True, type=click.IntRange(1, TURN), help="Different ones.")
@click.option("--repeat", default=25, show_default=True, type=click.IntRange(min=3))
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path))
def main(data: Path, batches: int, repeat: int, output: Path | None) -> None:
    """Time both on the captions in DATA."""
    train = [SimpleNamespace(prompt="", references=texts, label=None) for texts in read(data / "train.jsonl.gz")]
    score = rewards.load("cider_d", train=train)
    assert isinstance(score, CiderD)
    different = batches_of(read(data / "validation.jsonl.gz"), batches)
    turn = (different * TURN)[:TURN]
    contestants: dict[str, Callable[[Batch], Any]] = {
        "pycocoevalcap": toolkit(score),
        SEEN: lambda batch: score(*columns(batch)),
        "ours, new references": lambda batch: (score.frequencies.targets.cache_clear(), score(*columns(batch))),
    }
    if shutil.which("java"):
        contestants["pycocoevalcap, as it is called"] = whole_toolkit()
    difference = max(
        np.abs(np.array(contestants["pycocoevalcap"](batch)) - contestants[SEEN](batch)).max() for batch in different
    )
    seconds = alternate(contestants, turn, repeat)
    figures = {
        name: {"median": statistics.median(times), "range": [min(times), max(times)]} for name, times in seconds.items()
    }
    ours = figures[SEEN]["median"]
    about = f"{BATCH} completions, {REFERENCES} references each, {batches} different batches"
    table = Table(title=f"CIDEr-D of {about}; largest difference {difference:.1e}")
    for column in ("", "ms, median", "range", "times ours"):
        table.add_column(column, justify="left" if not column else "right")
    for name, found in figures.items():
        low, high = (1e3 * second for second in found["range"])
        row = f"{1e3 * found['median']:.2f}", f"{low:.2f} to {high:.2f}", f"{found['median'] / ours:.1f}"
        table.add_row(name, *row)
    Console().print(table)
    if output is not None:
        machine = {"python": platform.python_version(), "processor": platform.machine()}
        content = {
            "machine": machine,
            "batches": batches,
            "repeat": repeat,
            "difference": float(difference),
            "seconds": figures,
        }
        output.write_text(json.dumps(content, indent=2) + "\n")


def read(path: Path) -> list[list[str]]:
    """The references of each example."""
    with gzip.open(path, "rt") as lines:
        return [json.loads(line)["references"] for line in lines]


def batches_of(captions: list[list[str]], count: int) -> list[Batch]:
    """A caption of each example in place of a policy's, beside three others of the example and one of the next."""
    known = [texts for texts in captions if len(texts) >= REFERENCES]
    rows = [(texts[0], [*texts[1:REFERENCES], after[0]]) for texts, after in pairwise(known)]
    parts = [rows[start : start + BATCH] for start in range(0, BATCH * count, BATCH)]
    return [([text for text, _ in part], [targets for _, targets in part]) for part in parts if len(part) == BATCH]


def columns(batch: Batch) -> tuple[list[str], list[str], list[list[str]], list[dict[str, Any]]]:
    """What a reward reads."""
    return [""] * len(batch[0]), *batch, [{}] * len(batch[0])


def toolkit(score: CiderD) -> Callable[[Batch], Any]:
    """The toolkit's scorer, given our tokens, document frequencies and number of documents."""
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    known = score.frequencies
    frequencies = defaultdict(float, {tuple(ngram.split(" ")): count for ngram, count in known.frequencies.items()})

    class Documents(list):
        def __len__(self) -> int:  # which it takes for the number of documents
            return known.documents

    def run(batch: Batch) -> Any:
        scorer = CiderScorer(n=4, sigma=6.0)
        for text, targets in zip(*batch, strict=True):
            scorer += (" ".join(words_of(text)), [" ".join(words_of(target)) for target in targets])
        scorer.document_frequency, scorer.crefs = frequencies, Documents(scorer.crefs)
        return scorer.compute_cider()

    return run


def whole_toolkit() -> Callable[[Batch], Any]:
    """The toolkit with its Java tokenizer, which counts document frequencies in the batch."""
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    def run(batch: Batch) -> Any:
        completions, references = batch
        texts = {row: [{"caption": text}] for row, text in enumerate(completions)}
        targets = {row: [{"caption": text} for text in of_one] for row, of_one in enumerate(references)}
        tokenizer = PTBTokenizer()
        return Cider().compute_score(tokenizer.tokenize(targets), tokenizer.tokenize(texts))

    return run


def alternate(
    contestants: dict[str, Callable[[Batch], Any]], batches: list[Batch], repeat: int
) -> dict[str, list[float]]:
    """Seconds a batch of each, one after the other, `repeat` times after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeat + 2):
        for name, run in contestants.items():
            some = batches[:1] if "as it is called" in name else batches  # which takes a second each
            begin = time.perf_counter()
            for batch in some:
                run(batch)
            if turn >= 2:
                seconds[name].append((time.perf_counter() - begin) / len(some))
        for batch in batches:
            contestants[SEEN](batch)  # so that all references are known again
    return seconds


if __name__ == "__main__":
    main()
