"""Diversity of the texts of a corpus: metrics of all completions together, without references.

Words are lower-cased runs of letters and digits and single other characters, without spaces; only `self_bleu` has
the tokenizer of `bleu`. None of these is a function of sums over texts, so none has a bootstrap interval.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain

from tril_gym.rewards.base import CorpusScore, Extras, ReferenceLists, Strings, check_batch
from tril_gym.rewards.text.words import Ngram, ngrams_of, split_words
from tril_gym.utils.config_fields import check_integer


def all_ngrams(texts: Strings, n: int) -> list[Ngram]:
    """Return the n-grams of all texts; no n-gram spans two texts."""
    return list(chain.from_iterable(ngrams_of(split_words(text), n) for text in texts))


class DistinctN(CorpusScore):
    """Distinct n-grams over all n-grams, 0 to 1; 0 without any. Falls as a corpus grows: compare equal sizes.

    Li et al. 2016: https://arxiv.org/abs/1510.03055
    """

    def __init__(self, n: int) -> None:
        self.n, self.name = n, f"distinct_{n}"

    def corpus(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> float:
        """Return the share of distinct n-grams."""
        check_batch(prompts, completions, references, extras)
        ngrams = all_ngrams(completions, self.n)
        return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


class Entropy(CorpusScore):
    """The entropy of the n-grams of all texts, in bits; 0 without any.

        −Σ_g p(g) log₂ p(g),  p(g) the share of n-gram g

    Zhang et al. 2018, there in nats: https://arxiv.org/abs/1809.05972
    """

    def __init__(self, n: int) -> None:
        self.n, self.name = n, f"entropy_{n}"

    def corpus(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> float:
        """Return the entropy."""
        check_batch(prompts, completions, references, extras)
        counts = Counter(all_ngrams(completions, self.n))
        total = sum(counts.values())
        return -sum(count / total * math.log2(count / total) for count in sorted(counts.values())) + 0.0


class Msttr(CorpusScore):
    """Mean segmental type-token ratio: distinct words over words, in segments of the concatenated texts.

    0 to 1. The words after the last whole segment are not read; if there is no whole segment, all words are one. 0
    without words. Johnson 1944, https://doi.org/10.1037/h0093508
    """

    name = "msttr"

    def __init__(self, *, segment: int = 100) -> None:
        """Choose how texts are divided.

        Args:
            segment: number of words in a segment.
        """
        check_integer("segment", segment, 1, usual=100)
        self.segment = segment

    def corpus(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> float:
        """Return the mean ratio of the segments."""
        check_batch(prompts, completions, references, extras)
        words = list(chain.from_iterable(map(split_words, completions)))
        size = min(self.segment, len(words))
        starts = range(0, len(words) - size + 1, size) if size else range(0)
        ratios = [len(set(words[start : start + size])) / size for start in starts]
        return sum(ratios) / len(ratios) if ratios else 0.0


class SelfBleu(CorpusScore):
    """Mean BLEU of each text with the others as its references, 0 to 100: high if all texts are alike.

    Of more than `sample` texts it reads that many, evenly spaced from the first on. Fewer than two texts give 0, and an
    empty text adds 0, so check the lengths too. Time grows with the square of `sample`. Zhu et al. 2018:
    https://arxiv.org/abs/1802.01886
    """

    name = "self_bleu"

    def __init__(self, *, sample: int = 200) -> None:
        """Choose how many texts are compared.

        Args:
            sample: number of texts, each compared with all others of them.
        """
        check_integer("sample", sample, 2, usual=200)
        self.sample = sample

    def corpus(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> float:
        """Return the mean BLEU."""
        from tril_gym.rewards.text.sacrebleu import bleu

        check_batch(prompts, completions, references, extras)
        count = min(self.sample, len(completions))
        texts = [completions[i * len(completions) // count] for i in range(count)]
        if len(texts) < 2:
            return 0.0
        others = [texts[:row] + texts[row + 1 :] for row in range(len(texts))]
        empty = [""] * len(texts)
        return float(bleu()(empty, texts, others, [{}] * len(texts)).mean())


class VocabularySize(CorpusScore):
    """Number of distinct words in the texts."""

    name = "vocabulary_size"

    def corpus(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> float:
        """Return the number of distinct words."""
        check_batch(prompts, completions, references, extras)
        return float(len(set(chain.from_iterable(map(split_words, completions)))))


def distinct_1() -> DistinctN:
    """Return the share of distinct words."""
    return DistinctN(1)


def distinct_2() -> DistinctN:
    """Return the share of distinct pairs of words."""
    return DistinctN(2)


def distinct_3() -> DistinctN:
    """Return the share of distinct triples of words."""
    return DistinctN(3)


def entropy_1() -> Entropy:
    """Return the entropy of words."""
    return Entropy(1)


def entropy_2() -> Entropy:
    """Return the entropy of pairs of words."""
    return Entropy(2)
