"""Properties of texts that their reward may not show: repetition, a missing end, words that no training text has."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice

from gymnasium.vector import VectorEnv

from tril_gym.data.example import Example
from tril_gym.data.examples import Examples
from tril_gym.rewards.text.words import ngrams_of, split_words
from tril_gym.wrappers.vector import base_attribute

TEXTS_AT_ONCE = 1000


def repetition(text: str) -> float:
    """Return the share of repeated word trigrams, 1 − distinct / all; 0 for a text of fewer than 4 words."""
    trigrams = ngrams_of(split_words(text), 3)
    return 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


def has_unknown_word(text: str, known: Collection[str]) -> bool:
    """Return whether a text contains a word that is not in a set of lower-cased words."""
    return any(word not in known for word in split_words(text))


def words_of_examples(examples: Iterable[Example]) -> frozenset[str]:
    """Return the words of all prompts and references, lower-cased."""
    texts = (text for example in examples for text in (example.prompt, *example.references))
    words: set[str] = set()
    while part := list(islice(texts, TEXTS_AT_ONCE)):
        words.update(split_words("\n".join(part)))  # in one call, which takes half the time
    return frozenset(words)


def training_words(envs: VectorEnv) -> frozenset[str] | None:
    """Return the words of all examples to learn from; None for an environment without such examples."""
    if not isinstance(base_attribute(envs, "examples"), Examples):
        return None
    return words_of_examples(base_attribute(envs, "train_examples")())
