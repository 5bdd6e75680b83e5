"""Shaping terms, to be added to a task's reward: length, repetition, end of text.

To clip or normalise the reward as a whole, wrap the environment in Gymnasium's own `TransformReward` or
`NormalizeReward`, or those of `gymnasium.wrappers.vector`.

Words are separated by white space.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from tril_gym.rewards.base import Extras, ReferenceLists, Score, Scores, Strings, check_batch
from tril_gym.rewards.text.words import ngrams_of
from tril_gym.utils.config_fields import check_integer


class CompletionScore(Score):
    """A score that reads only the completion."""

    def __init__(self, name: str, function: Callable[[str], float]) -> None:
        self.name, self.function = name, function

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the score of each completion, (B,)."""
        check_batch(prompts, completions, references, extras)
        return np.array([self.function(completion) for completion in completions], dtype=np.float64)


def length_bonus(*, target: int = 20) -> CompletionScore:
    """Return min(words / target, 1), 0 to 1: longer is better up to a target.

    Args:
        target: number of words above which the score stays 1.
    """
    check_integer("target", target, 1, usual=20)
    return CompletionScore("length_bonus", partial(_length_bonus, target=target))


def length_penalty(*, most: int = 20) -> CompletionScore:
    """Return −max(words − most, 0) / most, at most 0: the relative excess length.

    Args:
        most: number of words without a penalty.
    """
    check_integer("most", most, 1, usual=20)
    return CompletionScore("length_penalty", partial(_length_penalty, most=most))


def repetition_penalty(*, n: int = 3) -> CompletionScore:
    """Return minus the share of n-grams of words that repeat earlier ones, −1 to 0; 0 for a text without n-grams.

    Args:
        n: number of words in an n-gram.
    """
    check_integer("n", n, 1, usual=3)
    return CompletionScore("repetition_penalty", partial(_repetition_penalty, n=n))


def _length_bonus(text: str, target: int) -> float:
    return min(len(text.split()) / target, 1.0)


def _length_penalty(text: str, most: int) -> float:
    return -float(max(len(text.split()) - most, 0)) / most


def _repetition_penalty(text: str, n: int) -> float:
    ngrams = ngrams_of(text.lower().split(), n)
    return len(set(ngrams)) / len(ngrams) - 1.0 if ngrams else 0.0


class EndBonus(Score):
    """1 for a text that ended with EOS or a stop string; 0 for a text that reached the length limit.

    Reads `extras["finish_reason"]`, which environments and `evaluate` provide.
    """

    name = "end_bonus"

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return 1 or 0 for each text, (B,)."""
        check_batch(prompts, completions, references, extras)
        for extra in extras:
            if "finish_reason" not in extra:
                raise ValueError(
                    'end_bonus needs extras["finish_reason"], "stop" or "length", for every text; got extras with'
                    f" {sorted(extra) or 'nothing'}. Environments add it to the last step's info"
                )
        return np.array([extra["finish_reason"] == "stop" for extra in extras], dtype=np.float64)
