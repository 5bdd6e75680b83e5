"""The order of concepts: the position of each, and the longest increasing subsequence."""

import pytest

from tril_gym import rewards


def order(completion: str, concepts: list[str]) -> float:
    return float(rewards.load("concept_order")([""], [completion], [[]], [{"concepts": concepts}])[0])


def test_concepts_at_the_same_word_are_not_increasing():
    # Both are found at word 0: of two that tie only one counts.
    assert order("running", ["run", "running"]) == 0.5
    assert order("running dogs", ["run", "running", "dog"]) == pytest.approx(2 / 3)


def test_longest_increasing_subsequence_counts():
    # Positions: c 4, a 0, b 1, d 2. The longest increasing subsequence is a, b, d; one that begins with c has only c.
    text = "apple boat door and car"
    assert order(text, ["car", "apple", "boat", "door"]) == 0.75
    # Positions 0, 4, 1, 2: a greedy choice, apple and car, has 2; the longest is apple, boat, door.
    assert order(text, ["apple", "car", "boat", "door"]) == 0.75


def test_earliest_mention_counts():
    # "cat" is at 1 and 3, "dog" at 2: the first cat comes before the dog, so only this order has both.
    assert order("a cat dog cat", ["cat", "dog"]) == 1.0
    assert order("a cat dog cat", ["dog", "cat"]) == 0.5


def test_inflected_mention_may_come_before_the_plain_one():
    # "run" is at 0 by its lemma and at 2 as it is written; the earlier one counts.
    assert order("runs dog run", ["run", "dog"]) == 1.0
    assert order("runs dog run", ["dog", "run"]) == 0.5
