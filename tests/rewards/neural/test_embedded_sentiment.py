"""The classifier of embedded reviews counts their opinions: no closing sentence buys its score."""

import gymnasium as gym
import numpy as np
import pytest

import tril_gym  # noqa: F401  registers the environments
from tril_gym import rewards
from tril_gym.data.embedded.imdb_grammar import EVENINGS, REMARKS
from tril_gym.data.embedded.phrases import options

GOOD, BAD = ([text for pair in REMARKS.values() for text in options(pair[side])] for side in (0, 1))
OPENING = "I saw this western on a rainy Sunday."


@pytest.fixture(scope="module")
def sentiment():
    """Return the reward of the environment, fitted as it is there."""
    return rewards.load("sentiment", train=gym.make("tril/IMDB-v0", reward=None).unwrapped.examples)


def mean_score(sentiment, rows):
    """Return the mean score of reviews that are an opening and so many opinions."""
    count = len(rows)
    return sentiment([OPENING] * count, [" ".join(row) for row in rows], [[]] * count, [{}] * count).mean()


def test_it_agrees_with_held_out_labels(sentiment):
    test = gym.make("tril/IMDB-v0", split="test", reward=None).unwrapped.examples
    prompts, endings = [example.prompt for example in test], [example.references[0] for example in test]
    scores = sentiment(prompts, endings, [[]] * len(test), [{}] * len(test))
    assert np.mean((scores > 0.5) == [example.label for example in test]) > 0.93


def test_opinions_are_counted(sentiment):
    rng = np.random.default_rng(0)

    def review(good):
        opinions = [*rng.choice(GOOD, good, replace=False), *rng.choice(BAD, 5 - good, replace=False)]
        return rng.permutation(opinions)

    means = [mean_score(sentiment, [review(good) for _ in range(100)]) for good in range(6)]
    assert means == sorted(means)
    assert means[1] < 0.1 < 0.5 < means[3]
    assert means[4] > 0.9


@pytest.mark.parametrize("closing", options(EVENINGS[0]))
def test_no_closing_sentence_buys_the_score(sentiment, closing):
    rng = np.random.default_rng(1)
    rows = [[*rng.choice(BAD, 3, replace=False), closing.format(companion="My wife")] for _ in range(50)]
    assert mean_score(sentiment, rows) < 0.3
