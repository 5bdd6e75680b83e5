"""Scores of machine translation against references, by the `sacrebleu` package: BLEU, chrF and TER.

- BLEU: Papineni et al. 2002, https://aclanthology.org/P02-1040; smoothing: Chen and Cherry 2014,
  https://aclanthology.org/W14-3346
- chrF: Popović 2015, https://aclanthology.org/W15-3049
- TER: Snover et al. 2006, https://aclanthology.org/2006.amta-papers.25

All on sacrebleu's scale, 0 to 100. Each exists for single texts, and pooled over a corpus: counts are summed over the
texts before any division.

B texts, K counts of a text.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tril_gym.rewards.base import Extras, PooledScore, ReferenceLists, Score, Scores, Strings, check_batch
from tril_gym.utils.config_fields import check_choice, check_integer

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

Smoothing = Literal["none", "floor", "add-k", "exp"]
MAX_SHIFT_WORDS = 100  # TER's search for moved phrases takes 1 s for two texts of this length, 15 s for two of 500


class Sentence(Score):
    """A metric of sacrebleu for each text; sacrebleu combines several references itself.

    A text without references, and an empty one, has the score `empty_score`.
    """

    def __init__(self, name: str, metric: Metric, *, empty_score: float) -> None:
        self.name, self.metric, self._empty_score = name, metric, empty_score

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the score of each completion, (B,)."""
        check_batch(prompts, completions, references, extras)
        pairs = zip(completions, references, strict=True)
        return np.array([self._score(completion, targets) for completion, targets in pairs], dtype=np.float64)

    def _score(self, completion: str, targets: Strings) -> float:
        if not targets or not completion.strip():
            return self._empty_score
        # A corpus of one text: `sentence_score` is equal, but warns for each text without effective order.
        return float(self.metric.corpus_score([completion], [[target] for target in targets]).score)


class Corpus(PooledScore):
    """A metric of sacrebleu for all texts together; texts without references are left out.

    If no text has references it is `empty_score`.
    """

    def __init__(self, name: str, metric: Metric, *, empty_score: float) -> None:
        self.name, self.metric, self._empty_score = name, metric, empty_score

    def statistics(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return 1 and the counts of each text, (B, K); 0 for a text without references."""
        check_batch(prompts, completions, references, extras)
        no_counts = [0.0] * len(self._counts("a", ["a"]))  # K depends on the metric only
        pairs = zip(completions, references, strict=True)
        rows = [self._counts(text, targets) if targets else no_counts for text, targets in pairs]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(no_counts))

    def from_sums(self, sums: Scores) -> float:
        """Return the metric for these sums, (K,)."""
        num_texts, *counts = sums.tolist()
        if not num_texts:
            return self._empty_score
        # All counts are integers, except the mean length of several references.
        counts = [int(count) if count.is_integer() else count for count in counts]
        # sacrebleu has no public functions for counts and for the score of counts; see also `_counts`.
        return float(self.metric._compute_score_from_stats(counts).score)

    def is_counted(self, statistics: Scores) -> npt.NDArray[np.bool_]:
        """Return which of B texts have references, (B,)."""
        return statistics[:, 0] > 0

    def _counts(self, completion: str, targets: Strings) -> list[float]:
        streams = [[target] for target in targets]
        return [1.0, *self.metric._extract_corpus_statistics([completion], streams)[0]]


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
        smooth: replaces a count of 0: "exp" (halved for each further order), "floor", "add-k" or "none".
        smooth_value: the number that "floor" (usually 0.1) and "add-k" (usually 1) use; the others have none.
        max_ngram_order: longest n-gram.
        effective_order: leave out n-grams longer than the text.
        lowercase: ignore case.
        tokenize: sacrebleu's tokenizer: "13a", "intl", "char", "zh", "none"; others need more packages,
            and some a download.
    """
    settings = {"effective_order": effective_order, "max_ngram_order": max_ngram_order}
    return Sentence("bleu", _bleu(smooth, smooth_value, lowercase, tokenize, **settings), empty_score=0.0)


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
    return Corpus("sacre_bleu", metric, empty_score=0.0)


def chrf(*, char_order: int = 6, word_order: int = 0, beta: int = 2, lowercase: bool = False) -> Sentence:
    """Return chrF of one text, the F score of n-grams of characters, 0 to 100; without references or text 0.

    Args:
        char_order: longest n-gram of characters.
        word_order: longest n-gram of words; 2 gives chrF++.
        beta: weight of recall relative to precision.
        lowercase: ignore case.
    """
    return Sentence("chrf", _chrf(char_order, word_order, beta, lowercase), empty_score=0.0)


def corpus_chrf(*, char_order: int = 6, word_order: int = 0, beta: int = 2, lowercase: bool = False) -> Corpus:
    """Return chrF of a corpus, 0 to 100; settings as for `chrf`."""
    return Corpus("corpus_chrf", _chrf(char_order, word_order, beta, lowercase), empty_score=0.0)


def ter(
    *,
    normalized: bool = False,
    no_punct: bool = False,
    case_sensitive: bool = False,
    most_words: int = MAX_SHIFT_WORDS,
) -> Sentence:
    """Return TER of one text, edits per 100 words of a reference: 0 is best, and there is no worst.

    A text without references, and an empty one, scores 100.

    Args:
        normalized: tokenize as for BLEU.
        no_punct: remove punctuation.
        case_sensitive: distinguish case.
        most_words: moved phrases are searched for if completion and reference have at most so many words, or the
            shorter one at most half as many; in longer texts all edits are of single words, as the search is slow.
    """
    return Sentence("ter", _ter(normalized, no_punct, case_sensitive, most_words), empty_score=100.0)


def corpus_ter(
    *,
    normalized: bool = False,
    no_punct: bool = False,
    case_sensitive: bool = False,
    most_words: int = MAX_SHIFT_WORDS,
) -> Corpus:
    """Return TER of a corpus; settings as for `ter`."""
    return Corpus("corpus_ter", _ter(normalized, no_punct, case_sensitive, most_words), empty_score=100.0)


def _bleu(smooth: str, smooth_value: float | None, lowercase: bool, tokenize: str, **settings: Any) -> Metric:
    from sacrebleu.metrics import BLEU

    check_choice("smooth", smooth, get_args(Smoothing), usual="exp")
    is_number = isinstance(smooth_value, Real) and 0 <= smooth_value < math.inf
    if smooth_value is not None and not (is_number and smooth in ("floor", "add-k")):
        raise ValueError(
            f'smooth_value must be a number of at least 0 for smooth "floor" or "add-k", got {smooth_value!r} for'
            f" {smooth!r}; leave it out for the usual one"
        )
    check_integer("max_ngram_order", settings["max_ngram_order"], 1, usual=4)
    check_choice("tokenize", tokenize, sorted(BLEU.TOKENIZERS), usual="13a")
    settings |= {"lowercase": lowercase, "smooth_method": smooth, "smooth_value": smooth_value}
    try:  # "force": no warnings of spaces before full stops, which captions have
        return BLEU(tokenize=tokenize, force=True, **settings)
    except (ImportError, RuntimeError) as error:
        raise ImportError(f"tokenize={tokenize!r} needs a missing package: {' '.join(str(error).split())}") from error


def _chrf(char_order: int, word_order: int, beta: int, lowercase: bool) -> Metric:
    from sacrebleu.metrics import CHRF

    check_integer("char_order", char_order, 1, usual=6)
    check_integer("word_order", word_order, 0, usual=0)
    check_integer("beta", beta, 1, usual=2)
    return CHRF(char_order=char_order, word_order=word_order, beta=beta, lowercase=lowercase)


def _ter(normalized: bool, no_punct: bool, case_sensitive: bool, most_words: int) -> Metric:
    from sacrebleu.metrics import TER
    from sacrebleu.metrics.lib_ter import BeamEditDistance, translation_edit_rate

    check_integer("most_words", most_words, 1, usual=MAX_SHIFT_WORDS)

    def edits(words: list[str], target: list[str]) -> int:
        shorter, longer = sorted((len(words), len(target)))
        is_quick = longer <= most_words or shorter <= most_words // 2
        return int(translation_edit_rate(words, target)[0] if is_quick else BeamEditDistance(target)(words)[0])

    class QuickTer(TER):  # type: ignore[misc, unused-ignore]  # sacrebleu has no setting for the limits of the search
        def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: dict[str, Any]) -> list[float]:
            words, targets = hypothesis.split(), ref_kwargs["ref_words"]
            return [min(edits(words, target) for target in targets), sum(map(len, targets)) / len(targets)]

        def __reduce__(self) -> tuple[Any, ...]:  # pickle finds no local classes
            return _ter, (normalized, no_punct, case_sensitive, most_words)

    return QuickTer(normalized=normalized, no_punct=no_punct, case_sensitive=case_sensitive)
