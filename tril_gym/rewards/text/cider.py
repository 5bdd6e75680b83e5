"""CIDEr-D: agreement with the references in n-grams, weighted by tf-idf.

Vedantam et al. 2015, section 6: https://arxiv.org/abs/1411.5726. With counts c(g) of the n-grams g of length n,

    idf(g)  = log N − log max(1, df(g))                      N documents, df(g) of them have g
    v_x(g)  = c_x(g) · idf(g)
    s_n     = Σ_g min(v_y(g), v_r(g)) · v_r(g) / (|v_y| |v_r|) · exp(−(len y − len r)² / 2σ²)
    CIDEr-D = 10 · mean over n = 1..4 and references r of s_n,   σ = 6

A document is the set of references of one train example. The frequencies are counted once over the train examples, so a
text's score does not depend on the other texts of the batch. An n-gram of one document has the weight of an unseen one
(max(1, df)), so only n-grams of several documents are stored.

Differs from the caption toolkit: words are lower-cased runs of letters and digits and single other characters, instead
of the Penn Treebank's; as there, punctuation is removed.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import mul
from pathlib import Path
from typing import Any

import numpy as np

from tril_gym.rewards.base import Extras, ReferenceLists, Score, Scores, Strings, check_batch
from tril_gym.rewards.fitting import ExampleLike, Train, fit_once

MAX_N = 4  # the longest n-gram
SIGMA = 6.0  # words
SCALE = 10.0
FILE = "cider_d.json.gz"
CACHED_EXAMPLES = 4096  # whose references are kept as `Targets`

NgramKey = str  # words joined by spaces: a string caches its hash, a tuple does not

# Runs of letters and digits, and single other characters except punctuation.
_WORD = re.compile(r"\w+|[^\w\s'`\"().,?!:;-]")


def split_words(text: str) -> list[str]:
    """Split a text into lower-cased words, without punctuation: "The dog's red." is the, dog, s, red."""
    return _WORD.findall(text.lower())


def ngram_counts(words: list[str]) -> list[tuple[Sequence[NgramKey], Sequence[int] | None]]:
    """Return the distinct n-grams of the words, in order, and their counts, for n = 1..4.

    None in place of counts means once each: the usual case, and counting would take several times as long.
    """
    sizes: list[tuple[Sequence[NgramKey], Sequence[int] | None]] = []
    ngrams, is_once = words, False
    for n in range(1, MAX_N + 1):
        is_once = is_once or len(set(ngrams)) == len(ngrams)  # then all longer ones are unique, too
        sizes.append((ngrams, None) if is_once else _count_ngrams(ngrams))
        ngrams = [f"{ngram} {word}" for ngram, word in zip(ngrams, words[n:], strict=False)]
    return sizes


def _count_ngrams(ngrams: list[NgramKey]) -> tuple[list[NgramKey], list[int]]:
    counts = Counter(ngrams)
    return list(counts), list(counts.values())


@dataclass(frozen=True, slots=True)
class Targets:
    """The weighted n-grams of the references of one example."""

    lengths: tuple[int, ...]  # number of words of each reference
    # n-gram g -> for each reference r that contains it: the index of r, v_r(g), and v_r(g) / |v_r|
    weights: Mapping[NgramKey, Sequence[tuple[int, float, float]]]


class DocumentFrequencies:
    """Document frequencies of n-grams, and CIDEr-D with their weights."""

    def __init__(self, documents: int, frequencies: Mapping[NgramKey, int]) -> None:
        self.documents, self.frequencies = documents, frequencies
        self._highest = math.log(documents)  # idf of an n-gram of one document or none
        # One float object for all n-grams of a count: a few hundred stay in the CPU's cache, one per n-gram would not.
        idf = {count: self._highest - math.log(count) for count in set(frequencies.values())}
        self._idf = {ngram: idf[count] for ngram, count in frequencies.items()}
        # References recur each time their example is drawn.
        self.targets = lru_cache(maxsize=CACHED_EXAMPLES)(self._targets)

    def __reduce__(self) -> tuple[Any, ...]:  # without the cache, which cannot be pickled
        return DocumentFrequencies, (self.documents, self.frequencies)

    @classmethod
    def count(cls, documents: Sequence[Sequence[str]]) -> DocumentFrequencies:
        """Count over documents, each of which is a few texts."""
        counts = Counter[NgramKey]()
        for texts in documents:
            split = [ngram_counts(split_words(text)) for text in texts]
            counts.update({ngram for sizes in split for ngrams, _ in sizes for ngram in ngrams})
        return cls(len(documents), {ngram: count for ngram, count in counts.items() if count > 1})

    def score(self, text: str, references: Strings) -> float:
        """Return the CIDEr-D of a text, in [0, 10]; 0 without references."""
        if not references:
            return 0.0
        words, targets = split_words(text), self.targets(tuple(references))
        cosines = [0.0] * len(references)  # summed over n
        find = targets.weights.get
        for ngrams, counts in ngram_counts(words):
            weights = self._weights(ngrams, counts)
            norm = math.hypot(*weights)
            for weight, entries in zip(weights, map(find, ngrams)):  # noqa: B905  (strict costs a tenth here)
                if entries:
                    for reference, other, share in entries:
                        cosines[reference] += (weight if weight < other else other) * share / norm
        similarity = sum(map(mul, cosines, _penalties(len(words), targets.lengths)))
        return SCALE * similarity / MAX_N / len(references)

    def _weights(self, ngrams: Sequence[NgramKey], counts: Sequence[int] | None) -> list[float]:
        """Return v(g) of each n-gram."""
        find, highest = self._idf.get, self._highest
        weights = [find(ngram, highest) for ngram in ngrams]
        return weights if counts is None else list(map(mul, counts, weights))

    def _targets(self, references: tuple[str, ...]) -> Targets:
        split = [split_words(reference) for reference in references]
        found: defaultdict[NgramKey, list[tuple[int, float, float]]] = defaultdict(list)
        for reference, words in enumerate(split):
            for ngrams, counts in ngram_counts(words):
                weights = self._weights(ngrams, counts)
                norm = math.hypot(*weights)
                for ngram, weight in zip(ngrams, weights, strict=True):
                    if weight > 0:  # so |v_r| > 0, too
                        found[ngram].append((reference, weight, weight / norm))
        return Targets(tuple(map(len, split)), dict(found))


@lru_cache(maxsize=65536)
def _penalties(length: int, lengths: tuple[int, ...]) -> list[float]:
    """Return the factor by which the difference from each reference's length reduces the cosine."""
    return [math.exp(-((length - other) ** 2) / (2 * SIGMA**2)) for other in lengths]


class CiderD(Score):
    """CIDEr-D of each completion, 0 to 10.

    Without references, or without words, the score is 0.
    """

    name = "cider_d"

    def __init__(self, *, train: Train | None = None, fitted: Path | None = None) -> None:
        if fitted is None and train is None:
            raise ValueError(
                "cider_d counts document frequencies over train examples, and got none; pass "
                "train=[examples with references], or fitted=FOLDER that an earlier one was saved to"
            )
        if fitted is not None and not (fitted / FILE).is_file():
            raise ValueError(f"no saved cider_d in {str(fitted)!r}: it has no {FILE}; pass train=[examples] instead")
        self._train, self._fitted = train, fitted

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the CIDEr-D of each completion, (B,) in [0, 10]."""
        check_batch(prompts, completions, references, extras)
        return np.array(list(map(self.frequencies.score, completions, references)), dtype=np.float64)

    def save(self, folder: Path) -> None:
        """Write the document frequencies."""
        frequencies = self.frequencies
        counts = dict(sorted(frequencies.frequencies.items()))
        content = json.dumps({"documents": frequencies.documents, "frequencies": counts})
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_bytes(gzip.compress(content.encode(), mtime=0))

    @cached_property
    def frequencies(self) -> DocumentFrequencies:
        """The document frequencies, counted or read when first needed."""
        if self._fitted is not None:
            return _read(self._fitted / FILE)
        assert self._train is not None  # checked in __init__
        return fit_once(self.name, self._train, _count)


def _count(examples: tuple[ExampleLike, ...], fingerprint: str) -> DocumentFrequencies:
    documents = [example.references for example in examples if example.references]
    if len(documents) < 2:
        raise ValueError(
            f"cider_d needs at least 2 train examples with references, got {len(documents)}: "
            "an n-gram of every document has weight 0; add some, or choose a reward that needs no references"
        )
    return DocumentFrequencies.count(documents)


def _read(path: Path) -> DocumentFrequencies:
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        return DocumentFrequencies(content["documents"], content["frequencies"])
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}; copy it again, or fit it again on train examples") from error
