"""Scores of machine translation against references, by the `sacrebleu` package: BLEU, chrF and TER.

- BLEU: Papineni et al. 2002, https://aclanthology.org/P02-1040; smoothing: Chen and Cherry 2014,
  https://aclanthology.org/W14-3346
- chrF: Popović 2015, https://aclanthology.org/W15-3049
- TER: Snover et al. 2006, https://aclanthology.org/2006.amta-papers.25

All on sacrebleu's scale, 0 to 100. Each is there for one text, and pooled over a corpus: counts are added up over the
texts before anything is divided.

B texts, K counts of a text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tril_gym.rewards.score import Extras, References, Scores, Texts, count_texts

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

Smoothing = Literal["none", "floor", "add-k", "exp"]
SMOOTHINGS = ("none", "floor", "add-k", "exp")
MOST_WORDS = 500  # of a text that TER reads: the search for phrases that moved takes seconds at this length


class Sentence:
    """A metric of sacrebleu for each text; several references are judged together, as sacrebleu does.

    A text without references, and an empty one, has the score `nothing`.
    """

    def __init__(self, name: str, metric: Metric, *, nothing: float, most_words: int | None = None) -> None:
        self.name, self.metric = name, metric
        self._nothing, self._most_words = nothing, most_words

    def __call__(self, prompts: Texts, completions: Texts, references: References, extras: Extras) -> Scores:
        """Return the score of each completion, (B,)."""
        count_texts(prompts, completions, references, extras)
        pairs = zip(completions, references, strict=True)
        return np.array([self._score(completion, targets) for completion, targets in pairs], dtype=np.float64)

    def _score(self, completion: str, targets: Texts) -> float:
        if not targets or not completion.strip():
            return self._nothing
        text, known = first_words([completion, *targets], self._most_words), self.metric
        return float(known.sentence_score(text[0], text[1:]).score)


class Corpus:
    """A metric of sacrebleu for all texts together; those without references are left out.

    Without any text that has references it is `nothing`.
    """

    def __init__(self, name: str, metric: Metric, *, nothing: float, most_words: int | None = None) -> None:
        self.name, self.metric = name, metric
        self._nothing, self._most_words = nothing, most_words

    def corpus(self, prompts: Texts, completions: Texts, references: References, extras: Extras) -> float:
        """Return the figure of these texts."""
        return self.of(self.statistics(prompts, completions, references, extras).sum(0))

    def statistics(self, prompts: Texts, completions: Texts, references: References, extras: Extras) -> Scores:
        """Return the counts of each text, (B, K); 0 for a text without references."""
        count_texts(prompts, completions, references, extras)
        counts = [self._counts(text, targets) for text, targets in zip(completions, references, strict=True)]
        width = max((len(row) for row in counts), default=0)
        return np.array([row or [0.0] * width for row in counts], dtype=np.float64).reshape(len(counts), width)

    def of(self, sums: Scores) -> float:
        """Return the figure that belongs to sums, (K,)."""
        if not np.any(sums):
            return self._nothing
        # The counts are whole numbers but for a mean of several references' lengths.
        counts = [int(count) if float(count).is_integer() else float(count) for count in sums]
        return float(self.metric._compute_score_from_stats(counts).score)

    def _counts(self, completion: str, targets: Texts) -> list[float]:
        # sacrebleu makes its counts public neither for chrF nor for TER.
        if not targets:
            return []
        text = first_words([completion, *targets], self._most_words)
        return self.metric._extract_corpus_statistics(text[:1], [[target] for target in text[1:]])[0]  # type: ignore[no-any-return]


def bleu(
    *,
    smooth: Smoothing = "exp",
    smooth_value: float | None = None,
    max_ngram_order: int = 4,
    effective_order: bool = True,
    lowercase: bool = False,
    tokenize: str = "13a",
) -> Sentence:
    """Return BLEU of one text, 0 to 100; without references, or without words, 0.

    Args:
        smooth: what stands for a count of 0: "exp" (halved for each further order), "floor", "add-k" or "none".
        smooth_value: the number that "floor" (usually 0.1) and "add-k" (usually 1) put there.
        max_ngram_order: the longest n-gram.
        effective_order: leave n-grams out that are longer than the text.
        lowercase: ignore case.
        tokenize: sacrebleu's tokenizer: "13a", "intl", "char", "none" and others.
    """
    settings = {"effective_order": effective_order, "max_ngram_order": max_ngram_order}
    return Sentence("bleu", _bleu(smooth, smooth_value, lowercase, tokenize, **settings), nothing=0.0)


def sacre_bleu(
    *,
    smooth: Smoothing = "exp",
    smooth_value: float | None = None,
    max_ngram_order: int = 4,
    lowercase: bool = False,
    tokenize: str = "13a",
) -> Corpus:
    """Return BLEU of a corpus, 0 to 100; settings as for `bleu`."""
    metric = _bleu(smooth, smooth_value, lowercase, tokenize, max_ngram_order=max_ngram_order)
    return Corpus("sacre_bleu", metric, nothing=0.0)


def chrf(*, char_order: int = 6, word_order: int = 0, beta: int = 2, lowercase: bool = False) -> Sentence:
    """Return chrF of one text, the F score of n-grams of characters, 0 to 100; without references or text 0.

    Args:
        char_order: the longest n-gram of characters.
        word_order: the longest n-gram of words; 2 makes it chrF++.
        beta: recall weighs so many times as much as precision.
        lowercase: ignore case.
    """
    return Sentence("chrf", _chrf(char_order, word_order, beta, lowercase), nothing=0.0)


def corpus_chrf(*, char_order: int = 6, word_order: int = 0, beta: int = 2, lowercase: bool = False) -> Corpus:
    """Return chrF of a corpus, 0 to 100; settings as for `chrf`."""
    return Corpus("corpus_chrf", _chrf(char_order, word_order, beta, lowercase), nothing=0.0)


def ter(
    *,
    normalized: bool = False,
    no_punct: bool = False,
    case_sensitive: bool = False,
    most_words: int = MOST_WORDS,
) -> Sentence:
    """Return TER of one text, edits per 100 words of a reference: 0 is best, and there is no worst.

    A text without references, and an empty one, has 100: all is to be written.

    Args:
        normalized: split words as for BLEU.
        no_punct: leave punctuation out.
        case_sensitive: tell case apart.
        most_words: only so many words of a text are read, as two texts of 500 take seconds, of thousands minutes.
    """
    return Sentence("ter", _ter(normalized, no_punct, case_sensitive, most_words), nothing=100.0, most_words=most_words)


def corpus_ter(
    *,
    normalized: bool = False,
    no_punct: bool = False,
    case_sensitive: bool = False,
    most_words: int = MOST_WORDS,
) -> Corpus:
    """Return TER of a corpus; settings as for `ter`."""
    metric = _ter(normalized, no_punct, case_sensitive, most_words)
    return Corpus("corpus_ter", metric, nothing=100.0, most_words=most_words)


def first_words(texts: list[str], most: int | None) -> list[str]:
    """Return the texts, each without what follows its first `most` words."""
    return texts if most is None else [_cut(text, most) for text in texts]


def _cut(text: str, most: int) -> str:
    words = text.split()
    return text if len(words) <= most else " ".join(words[:most])


def _bleu(smooth: str, smooth_value: float | None, lowercase: bool, tokenize: str, **settings: Any) -> Metric:
    from sacrebleu.metrics import BLEU

    if smooth not in SMOOTHINGS:
        raise ValueError(f"smooth must be one of {', '.join(SMOOTHINGS)}, got {smooth!r}; the usual one is exp")
    if settings["max_ngram_order"] < 1:
        raise ValueError(f"max_ngram_order must be at least 1, got {settings['max_ngram_order']}; 4 is usual")
    if tokenize not in BLEU.TOKENIZERS:
        known = ", ".join(sorted(BLEU.TOKENIZERS))
        raise ValueError(f"tokenize must be one of {known}, got {tokenize!r}; the usual one is 13a")
    # "force": no warnings of spaces before full stops, which captions have.
    return BLEU(
        lowercase=lowercase, force=True, tokenize=tokenize, smooth_method=smooth, smooth_value=smooth_value, **settings
    )


def _chrf(char_order: int, word_order: int, beta: int, lowercase: bool) -> Metric:
    from sacrebleu.metrics import CHRF

    if char_order < 1 or word_order < 0 or beta < 1:
        raise ValueError(
            f"chrF needs char_order ≥ 1, word_order ≥ 0 and beta ≥ 1, got {char_order}, {word_order} and {beta}; the"
            " usual ones are 6, 0 and 2"
        )
    return CHRF(char_order=char_order, word_order=word_order, beta=beta, lowercase=lowercase)


def _ter(normalized: bool, no_punct: bool, case_sensitive: bool, most_words: int) -> Metric:
    from sacrebleu.metrics import TER

    if most_words < 1:
        raise ValueError(f"most_words must be at least 1, got {most_words}; the usual value is {MOST_WORDS}")
    return TER(normalized=normalized, no_punct=no_punct, case_sensitive=case_sensitive)
