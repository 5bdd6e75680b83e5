"""Share of required words, the concepts, that a text uses.

Words are compared by lemma: spaCy's English tokenizer, and the lookup table of `spacy-lookups-data` (no model, no
download). The table ignores context: "saw" is always "see", in the concept as well as in the text.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tril_gym.rewards.base import Extras, ReferenceLists, Score, Scores, Strings, check_batch, well_formed

if TYPE_CHECKING:
    from spacy.tokenizer import Tokenizer

# spaCy stores every distinct word that it tokenizes, about 0.4 kB each, and a policy can write any number of them.
MAX_STORED_WORDS = 200_000


class ConceptScore(Score):
    """A share of the concepts of each text, `extras["concepts"]`."""

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the share for each completion, (B,) in [0, 1]."""
        check_batch(prompts, completions, references, extras)
        pairs = zip(completions, (_concepts(extra, self.name) for extra in extras), strict=True)
        return np.array([self.share(*pair) for pair in pairs], dtype=np.float64)

    @abstractmethod
    def share(self, completion: str, concepts: Strings) -> float:
        """Return the share for one completion, 0 to 1."""


class ConceptCoverage(ConceptScore):
    """Share of `extras["concepts"]` that the completion uses, in any inflection, 0 to 1.

    A concept is used if its lemma is among the lemmas of the completion, or if the completion contains it unchanged; a
    concept of several words, if they are adjacent. An empty completion, or an empty list of concepts, gives 0.
    """

    name = "concept_coverage"

    def share(self, completion: str, concepts: Strings) -> float:
        """Return the share of the concepts that a completion uses."""
        return _lexicon().coverage(completion, concepts)


class ConceptOrder(ConceptScore):
    """Share of the concepts that the completion uses in the order given, 0 to 1.

    The longest common subsequence of the concepts as given and in order of first use, over the number of concepts. Use
    is defined as for `concept_coverage`; an empty completion, or an empty list of concepts, gives 0.
    """

    name = "concept_order"

    def share(self, completion: str, concepts: Strings) -> float:
        """Return the share of the concepts that a completion uses in the order given."""
        return _lexicon().order(completion, concepts)


class ConceptStems(ConceptScore):
    """Share of the concepts whose Porter stem is the stem of a word of the completion, 0 to 1.

    TRIL's measure, for comparison: words are separated by white space only, so a word before a full stop does not
    match; concepts with the same stem count once, and a concept of several words is never found.
    """

    name = "concept_stems"

    def share(self, completion: str, concepts: Strings) -> float:
        """Return the share of the concepts' stems that are stems of words of a completion."""
        stem = _stemmer()
        wanted = {stem(concept.lower()) for concept in concepts}
        written = {stem(word) for word in completion.lower().split()}
        return len(wanted & written) / len(wanted) if wanted else 0.0


class Lexicon:
    """A tokenizer and a table of lemmas."""

    def __init__(self, tokenizer: Tokenizer, lemmas: Mapping[str, str]) -> None:
        self.tokenizer, self.lemmas = tokenizer, lemmas
        # Concepts recur each time their example is drawn.
        self._concept = lru_cache(maxsize=65536)(self.lemmatise)

    @property
    def num_stored_words(self) -> int:
        """Number of strings that the tokenizer has stored."""
        return len(self.tokenizer.vocab.strings)

    def lemmatise(self, text: str) -> tuple[str, str]:
        """Return the lower-cased words of a text, and their lemmas, as strings with a space around each word."""
        words = [token.text for token in self.tokenizer(well_formed(text).lower()) if not token.is_space]
        lemmas = [self.lemmas.get(word, word).lower() for word in words]  # the table has i -> I
        return f" {' '.join(words)} ", f" {' '.join(lemmas)} "

    def coverage(self, completion: str, concepts: Strings) -> float:
        """Return the share of the concepts that a completion uses."""
        words, lemmas = self.lemmatise(completion)
        used = 0
        for concept in concepts:
            concept_words, concept_lemmas = self._concept(concept)
            used += concept_lemmas in lemmas or concept_words in words
        return used / len(concepts) if concepts else 0.0

    def order(self, completion: str, concepts: Strings) -> float:
        """Return the share of the concepts that a completion uses in the order given."""
        words, lemmas = self.lemmatise(completion)
        places = [self._place(concept, words, lemmas) for concept in concepts]
        longest = _longest_increasing([place for place in places if place is not None])
        return longest / len(concepts) if concepts else 0.0

    def _place(self, concept: str, words: str, lemmas: str) -> int | None:
        """Return the number of words before the first use of a concept; None if it is not used."""
        concept_words, concept_lemmas = self._concept(concept)
        spellings = ((lemmas, concept_lemmas), (words, concept_words))
        places = [text[: text.find(part)].count(" ") for text, part in spellings if part in text]
        return min(places, default=None)


def _longest_increasing(places: list[int]) -> int:
    """Return the length of the longest increasing subsequence."""
    lengths: list[int] = []
    for row, place in enumerate(places):
        before = [lengths[other] for other in range(row) if places[other] < place]
        lengths.append(1 + max(before, default=0))
    return max(lengths, default=0)


def _concepts(extra: Mapping[str, Any], name: str) -> Strings:
    """Return the concepts of one example."""
    if "concepts" not in extra:
        raise ValueError(
            f'{name} needs extras["concepts"], the words to use, for every text; '
            f"got extras with {sorted(extra) or 'nothing'}. Use it with data that has concepts, such as CommonGen"
        )
    if isinstance(extra["concepts"], str):
        raise ValueError(f'extras["concepts"] must be a list of words, got the string {extra["concepts"]!r}')
    return extra["concepts"]  # type: ignore[no-any-return]


def _lexicon() -> Lexicon:
    """Return the process's lexicon, a new one once the old one has stored too many words."""
    if _new_lexicon().num_stored_words > MAX_STORED_WORDS:
        _new_lexicon.cache_clear()
    return _new_lexicon()


@lru_cache(maxsize=1)
def _stemmer() -> Callable[[str], str]:
    from nltk.stem import PorterStemmer

    return lru_cache(maxsize=65536)(PorterStemmer().stem)


@lru_cache(maxsize=1)
def _new_lexicon() -> Lexicon:
    import spacy
    from spacy.lookups import load_lookups

    lemmas = load_lookups("en", ["lemma_lookup"]).get_table("lemma_lookup")
    return Lexicon(spacy.blank("en").tokenizer, lemmas)
