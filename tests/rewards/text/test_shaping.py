"""Shaping terms, and the finish reason that some of them need."""

import gymnasium as gym
import pytest

import tril_gym  # noqa: F401  (registers the environments)
from tril_gym import rewards


def score(name, text, extras=None, **settings):
    return float(rewards.load(name, **settings)(["p"], [text], [[]], [extras or {}])[0])


def test_by_hand():
    assert [score("length_bonus", "w " * words, target=4) for words in (0, 1, 4, 9)] == [0.0, 0.25, 1.0, 1.0]
    assert [score("length_penalty", "w " * words, most=4) for words in (0, 4, 5, 12)] == [0.0, 0.0, -0.25, -2.0]
    # a b a b a: pairs ab, ba, ab, ba: two of four are repetitions
    assert score("repetition_penalty", "a b A b a", n=2) == pytest.approx(-0.5)
    assert score("repetition_penalty", "a b c d") == 0.0
    assert score("repetition_penalty", "a a") == 0.0  # no triple
    assert score("repetition_penalty", "a " * 10, n=1) == pytest.approx(-0.9)


def test_finish_reason_comes_from_the_environment():
    reward = {"end_bonus": 1.0, "length_bonus": 0.0}
    env = gym.make("tril/CommonGen-v0", reward=reward, max_new_tokens=2)
    eos = env.metadata["text"]["eos_token_ids"][0]
    word = next(token for token in range(5, 50) if token != eos)
    for actions, paid in (([eos], 1.0), ([word, word], 0.0), ([word, eos], 1.0)):
        env.reset(seed=0)
        for action in actions:
            _, pay, terminated, _, info = env.step(action)
        assert terminated
        assert (pay, info["scores"]["end_bonus"]) == (paid, paid)


def test_missing_finish_reason_is_refused():
    with pytest.raises(ValueError, match=r'needs extras\["finish_reason"\].*got extras with nothing'):
        score("end_bonus", "a text")
    assert score("end_bonus", "a text", {"finish_reason": "length"}) == 0.0


@pytest.mark.parametrize(
    ("name", "setting"), [("length_bonus", "target"), ("length_penalty", "most"), ("repetition_penalty", "n")]
)
def test_invalid_settings_are_refused(name, setting):
    for value in (0, -1, 1.5, float("nan"), "x"):
        with pytest.raises(
            ValueError, match=rf"{setting} must be a whole number of at least 1, got {value!r}; the usual"
        ):
            rewards.load(name, **{setting: value})
