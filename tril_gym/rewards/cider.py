"""CIDEr-D: agreement with the references in the n-grams that say something about this example.

Vedantam et al. 2015, section 6: https://arxiv.org/abs/1411.5726. With counts c(g) of the n-grams g of length n,

    idf(g)  = log N − log max(1, df(g))                      N documents, df(g) of them have g
    v_x(g)  = c_x(g) · idf(g)
    s_n     = Σ_g min(v_y(g), v_r(g)) · v_r(g) / (|v_y| |v_r|) · exp(−(len y − len r)² / 2σ²)
    CIDEr-D = 10 · mean over n = 1..4 and references r of s_n,   σ = 6

A document is all references of one train example. The frequencies come from the train examples, once, so a text's score
never depends on the texts beside it. An n-gram of one document weighs as much as one never seen (max(1, df)), so only
those of several are kept.

Differs from the caption toolkit: words are lower-cased runs of letters and digits and single other characters, instead
of the Penn Treebank's; like there, the marks in `DROPPED` are no words.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np

from tril_gym.rewards.fitting import ExampleLike, Train, fit_once
from tril_gym.rewards.score import Extras, References, Scores, Texts, count_texts

MAX_N = 4  # the longest n-gram
SIGMA = 6.0  # words
SCALE = 10.0
FILE = "cider_d.json.gz"
CACHED_TEXTS = 4096  # references whose vectors are kept

Ngram = tuple[str, ...]

_WORD = re.compile(r"\w+|[^\w\s]")
DROPPED = frozenset("'`\"().,?!:;-")


def words_of(text: str) -> list[str]:
    """Split a text into lower-cased words, without punctuation: "The dog's red." is the, dog, s, red."""
    return [word for word in _WORD.findall(text.lower()) if word not in DROPPED]


def ngrams_of(words: list[str]) -> list[Ngram]:
    """Return all n-grams of the words, n = 1..4, with repetitions."""
    return [tuple(words[i : i + n]) for n in range(1, MAX_N + 1) for i in range(len(words) - n + 1)]


@dataclass(frozen=True, slots=True)
class TfIdf:
    """One text as CIDEr sees it."""

    length: int  # words
    weights: dict[Ngram, float]  # v(g), n-grams of all four lengths together
    norms: tuple[float, ...]  # |v| for n = 1..4


class DocumentFrequencies:
    """In how many documents each n-gram stands, and the tf-idf vectors that follow."""

    def __init__(self, documents: int, frequencies: Mapping[Ngram, int]) -> None:
        self.documents, self.frequencies = documents, frequencies
        self._log_documents = math.log(documents)
        # The one state, and a harmless one: references come back each time their example is drawn.
        self.reference_vector = lru_cache(maxsize=CACHED_TEXTS)(self.vector)

    @classmethod
    def count(cls, documents: Sequence[Sequence[str]]) -> DocumentFrequencies:
        """Count over documents, each a few texts."""
        counts = Counter[Ngram]()
        for texts in documents:
            counts.update(set(chain.from_iterable(ngrams_of(words_of(text)) for text in texts)))
        return cls(len(documents), {ngram: count for ngram, count in counts.items() if count > 1})

    def vector(self, text: str) -> TfIdf:
        """Weigh the n-grams of a text."""
        words = words_of(text)
        weights = {}
        squares = [0.0] * MAX_N
        for ngram, count in Counter(ngrams_of(words)).items():
            weights[ngram] = count * (self._log_documents - math.log(self.frequencies.get(ngram, 1)))
            squares[len(ngram) - 1] += weights[ngram] ** 2
        return TfIdf(len(words), weights, tuple(map(math.sqrt, squares)))


def similarity(text: TfIdf, reference: TfIdf) -> float:
    """Return the mean of s_n over n = 1..4, in [0, 1]."""
    products = [0.0] * MAX_N
    for ngram, weight in text.weights.items():
        other = reference.weights.get(ngram, 0.0)
        products[len(ngram) - 1] += min(weight, other) * other
    norms = [mine * other for mine, other in zip(text.norms, reference.norms, strict=True)]
    cosines = [product / norm for product, norm in zip(products, norms, strict=True) if norm > 0]
    penalty = math.exp(-((text.length - reference.length) ** 2) / (2 * SIGMA**2))
    return penalty * sum(cosines) / MAX_N


class CiderD:
    """CIDEr-D of each completion, 0 to 10.

    Without references, or without words, the score is 0.
    """

    name = "cider_d"

    def __init__(self, *, train: Train | None = None, fitted: Path | None = None) -> None:
        if fitted is None and train is None:
            raise ValueError(
                "cider_d counts document frequencies over train examples, and has none; pass "
                "train=[examples with references], or fitted=FOLDER where an earlier one was saved"
            )
        if fitted is not None and not (fitted / FILE).is_file():
            raise ValueError(f"no saved cider_d in {str(fitted)!r}: it has no {FILE}; pass train=[examples] instead")
        self._train, self._fitted = train, fitted
        self._frequencies: DocumentFrequencies | None = None

    def __call__(self, prompts: Texts, completions: Texts, references: References, extras: Extras) -> Scores:
        """Return the CIDEr-D of each completion, (B,) in [0, 10]."""
        count_texts(prompts, completions, references, extras)
        pairs = zip(completions, references, strict=True)
        return np.array([self._score(completion, targets) for completion, targets in pairs], dtype=np.float64)

    def save(self, folder: Path) -> None:
        """Write the document frequencies."""
        frequencies = self.frequencies
        counts = {" ".join(ngram): count for ngram, count in sorted(frequencies.frequencies.items())}
        content = json.dumps({"documents": frequencies.documents, "frequencies": counts})
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_bytes(gzip.compress(content.encode(), mtime=0))

    @property
    def frequencies(self) -> DocumentFrequencies:
        """The document frequencies, counted or read when first needed."""
        if self._frequencies is None and self._fitted is not None:
            self._frequencies = _read(self._fitted / FILE)
        if self._frequencies is None:
            assert self._train is not None, "__init__ lets no other case pass"
            self._frequencies = fit_once(self.name, self._train, _count)
        return self._frequencies

    def _score(self, completion: str, targets: Texts) -> float:
        if not targets:
            return 0.0
        text = self.frequencies.vector(completion)
        similarities = [similarity(text, self.frequencies.reference_vector(target)) for target in targets]
        return SCALE * sum(similarities) / len(similarities)


def _count(examples: tuple[ExampleLike, ...], fingerprint: str) -> DocumentFrequencies:
    documents = [example.references for example in examples if example.references]
    if len(documents) < 2:
        raise ValueError(
            f"cider_d needs at least 2 train examples with references, got {len(documents)}: "
            "what stands in every document weighs nothing"
        )
    return DocumentFrequencies.count(documents)


def _read(path: Path) -> DocumentFrequencies:
    content = json.loads(gzip.decompress(path.read_bytes()))
    counts = {tuple(ngram.split(" ")): count for ngram, count in content["frequencies"].items()}
    return DocumentFrequencies(content["documents"], counts)
