"""Compare our CIDEr-D with the caption toolkit's: same tokens, same document frequencies, same scores.

    python benchmarks/scoring.py commongen [--batches N] [--output FILE.json]

Needs `pip install pycocoevalcap` and CommonGen: a folder with train.jsonl.gz, from which document frequencies are
counted, and validation.jsonl.gz, whose captions are scored; lines with lists of `references`.

Each measurement scores ten batches of 64 completions with 4 references each. The variants start from texts: the
toolkit's inner scorer with our tokens and document frequencies; ours with references that were scored before (as in
training, where examples repeat); ours with new ones; and, if Java is installed, the toolkit's public interface, with
its own tokenizer and the document frequencies of the batch. With --batches 10 the ten batches differ, so that the
processor's cache does not hold their references.
"""

from __future__ import annotations

import gzip
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import side_by_side
from side_by_side import Comparison, Sample, Target

from tril_gym import rewards
from tril_gym.rewards.text.cider import CiderD, split_words

BATCH, REFERENCES, BATCHES = 64, 4, 10
SEEN, NEW = "ours, references seen before", "ours, new references"
SCORER, INTERFACE = "pycocoevalcap", "pycocoevalcap, public interface"

Batch = tuple[list[str], list[list[str]]]  # completions, and the references of each
Scorer = Callable[[Batch], Any]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = side_by_side.parser(__doc__)
    options.add_argument("data", type=Path, help="folder with train.jsonl.gz and validation.jsonl.gz")
    options.add_argument("--batches", type=int, choices=range(1, BATCHES + 1), default=1, help="different batches")
    settings = side_by_side.parse(options, arguments)
    train = [
        SimpleNamespace(prompt="", references=texts, label=None) for texts in read(settings.data / "train.jsonl.gz")
    ]
    score = rewards.load("cider_d", train=train)
    assert isinstance(score, CiderD)
    different = batches_of(read(settings.data / "validation.jsonl.gz"), settings.batches)
    batches = (different * BATCHES)[:BATCHES]

    def ours(batch: Batch) -> Any:
        return score([""] * len(batch[0]), *batch, [{}] * len(batch[0]))

    def ours_new(batch: Batch) -> Any:
        score.frequencies.targets.cache_clear()
        return ours(batch)

    scorer = toolkit_scorer(score)
    variants = {
        SCORER: variant(scorer, batches),
        SEEN: variant(ours, batches),
        NEW: variant(ours_new, batches, restore=ours),
    }
    if shutil.which("java"):
        variants[INTERFACE] = variant(toolkit_interface(), batches[:1])  # takes a second per batch
    difference = max(float(np.abs(np.array(scorer(batch)) - ours(batch)).max()) for batch in different)
    title = f"CIDEr-D, batches of {BATCH} completions, {REFERENCES} references each, {len(different)} different batches"
    targets = [Target(SEEN, name) for name in variants if name != SEEN]
    result = side_by_side.run(Comparison(title, "batches", variants, targets), repeat=settings.repeat)
    side_by_side.show(result)
    print(f"largest difference of scores: {difference:.1e}")
    return side_by_side.finish(settings, [result], difference=difference)


def read(path: Path) -> list[list[str]]:
    """Read the references of each example."""
    with gzip.open(path, "rt") as lines:
        return [json.loads(line)["references"] for line in lines]


def batches_of(captions: list[list[str]], count: int) -> list[Batch]:
    """Pair a caption of each example, as its completion, with three others of the example and one of the next."""
    complete = [texts for texts in captions if len(texts) >= REFERENCES]
    rows = [(texts[0], [*texts[1:REFERENCES], following[0]]) for texts, following in pairwise(complete)]
    parts = [rows[start : start + BATCH] for start in range(0, BATCH * count, BATCH)]
    return [([text for text, _ in part], [targets for _, targets in part]) for part in parts if len(part) == BATCH]


def variant(scorer: Scorer, batches: Sequence[Batch], restore: Scorer | None = None) -> Callable[[], Sample]:
    """Score these batches in each measurement; then, not timed, again with `restore`, which fills the caches."""

    def measure() -> Sample:
        begin = time.perf_counter()
        for batch in batches:
            scorer(batch)
        seconds = time.perf_counter() - begin
        for batch in batches if restore else ():
            restore(batch)
        return Sample(seconds, float(len(batches)))

    return measure


def toolkit_scorer(score: CiderD) -> Scorer:
    """Return the toolkit's scorer with our tokens, document frequencies and number of documents."""
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    ours = score.frequencies
    frequencies = defaultdict(float, {tuple(ngram.split(" ")): count for ngram, count in ours.frequencies.items()})

    class Documents(list):
        def __len__(self) -> int:  # the scorer takes it for the number of documents
            return ours.documents

    def run(batch: Batch) -> Any:
        scorer = CiderScorer(n=4, sigma=6.0)
        for text, targets in zip(*batch, strict=True):
            scorer += (" ".join(split_words(text)), [" ".join(split_words(target)) for target in targets])
        scorer.document_frequency, scorer.crefs = frequencies, Documents(scorer.crefs)
        return scorer.compute_cider()

    return run


def toolkit_interface() -> Scorer:
    """Return the toolkit with its Java tokenizer, which counts document frequencies in the batch."""
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    def run(batch: Batch) -> Any:
        completions, references = batch
        texts = {row: [{"caption": text}] for row, text in enumerate(completions)}
        targets = {row: [{"caption": text} for text in of_one] for row, of_one in enumerate(references)}
        tokenizer = PTBTokenizer()
        return Cider().compute_score(tokenizer.tokenize(targets), tokenizer.tokenize(texts))

    return run


if __name__ == "__main__":
    main()
