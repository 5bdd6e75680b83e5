"""The check of rewards passes on ours, and notices rewards that are broken on purpose."""

import random

import numpy as np
import pytest

from tril_gym import rewards
from tril_gym.testing import ConformanceError, check_reward


class Length(rewards.Score):
    """Number of words, saved as a file."""

    name = "length"

    def __call__(self, prompts, completions, references, extras):
        return np.array([len(text.split()) for text in completions], np.float64)

    def save(self, folder):
        (folder / "word").write_text("1")


class OfTheBatch(Length):
    def __call__(self, prompts, completions, references, extras):
        return np.full(len(completions), np.mean([len(text) for text in completions] or [0.0]))


class OfThePosition(Length):
    def __call__(self, *batch):
        return super().__call__(*batch) + 1e-3 * np.arange(len(batch[0]))


class ChangesReferences(Length):
    def __call__(self, prompts, completions, references, extras):
        for of_one in references:
            of_one.sort(reverse=True)
            of_one.clear()
        return super().__call__(prompts, completions, references, extras)


class Counts(Length):
    calls = 0

    def __call__(self, *batch):
        self.calls += 1
        return super().__call__(*batch) + (self.calls > 12)


class KeepsItsResult(Length):
    cache: dict = {}  # noqa: RUF012

    def __call__(self, *batch):
        return self.cache.setdefault(tuple(batch[1]), super().__call__(*batch))


class OneColumn(Length):
    def __call__(self, *batch):
        return super().__call__(*batch)[:, None]


class Integers(Length):
    def __call__(self, *batch):
        return super().__call__(*batch).astype(np.int64)


class DividesByTheLength(Length):
    def __call__(self, prompts, completions, references, extras):
        return np.array([1.0 / len(text) for text in completions], np.float64)


class NanForEmptyTexts(Length):
    def __call__(self, prompts, completions, references, extras):
        return np.array([float(len(text)) if text else np.nan for text in completions], np.float64)


class RefusesNoTexts(Length):
    def __call__(self, *batch):
        return np.stack(super().__call__(*batch).tolist())


class SeedsNumpy(Length):
    def __call__(self, *batch):
        np.random.seed(0)  # noqa: NPY002
        return super().__call__(*batch)


class Random(Length):
    def __call__(self, *batch):
        return super().__call__(*batch) + 0 * random.random()


class Nameless(Length):
    name = ""


class CannotBePickled(Length):
    def __init__(self):
        self.function = lambda: None


class CannotBeSaved(Length):
    def save(self, folder):
        (folder / "missing" / "file").write_text("")


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (OfTheBatch, "whatever the other texts of the batch are; found: .* for the text"),
        (OfThePosition, "whatever the other texts of the batch are"),
        (ChangesReferences, "does not change its inputs"),
        (Counts, "gives the same scores again|in any order"),
        (KeepsItsResult, "returns a new array, which the caller may change"),
        (OneColumn, "one float64 per text, shape \\(1,\\); found: float64 of shape \\(1, 1\\)"),
        (Integers, "one float64 per text, shape \\(1,\\); found: int64"),
        (DividesByTheLength, "scores every text, here \\[''\\]; found: ZeroDivisionError"),
        (NanForEmptyTexts, "gives finite numbers; found: the score nan of the text ''"),
        (RefusesNoTexts, "scores every text, here \\[\\]"),
        (SeedsNumpy, "uses no global random generator; found: it uses that of numpy.random"),
        (Random, "found: it uses that of random"),
        (Nameless, "has a name, and says whether it is slow; found: name ''"),
        (CannotBePickled, "is_pickled=False leaves this out; found: .*lambda"),
        (CannotBeSaved, "is saved into a folder that exists"),
    ],
)
def test_a_broken_rule_is_named(reward, message):
    with pytest.raises(ConformanceError, match=f"broken rule: .*{message}"):
        check_reward(reward())


def test_scores_out_of_bounds_and_wrong_loading_are_noticed():
    with pytest.raises(ConformanceError, match=r"is in 0 … 1; found: the score 6.0 of the text 'a dog"):
        check_reward(Length(), bounds=(0, 1))
    with pytest.raises(ConformanceError, match=r"is in 7 … inf; found: the score 6.0 of the text 'a dog"):
        check_reward(Length(), bounds=(7, np.inf))
    with pytest.raises(ConformanceError, match=r"scores alike when it is loaded .*; found: FileNotFoundError"):
        check_reward(Length(), load=lambda folder: (folder / "nothing").read_text())
    with pytest.raises(ConformanceError, match=r"scores alike when it is loaded .*; found: 6.0 and 1.0"):
        check_reward(
            Length(), load=lambda folder: rewards.with_retries(length, retries=int((folder / "word").read_text()))
        )


def test_a_reward_that_is_loaded_under_another_name_is_noticed():
    with pytest.raises(ConformanceError, match="has the same name; found: 'other' and 'length'"):
        check_reward(Length(), load=lambda folder: type("Other", (Length,), {"name": "other"})())


def test_odd_texts_are_scored_beside_those_that_are_given():
    with pytest.raises(ConformanceError, match=r"scores every text, here \[''\]; found: ZeroDivisionError"):
        check_reward(DividesByTheLength(), [("a prompt", "a text", [], {})])


def length(completions):
    return [float(len(text) > 1) for text in completions]


def test_right_rewards_pass():
    check_reward(Length(), bounds=(0, np.inf), load=lambda folder: Length())
    check_reward(length)
    check_reward("rouge_l", bounds=(0, 1))
    check_reward(lambda completions: [0.0 for _ in completions], is_pickled=False)
