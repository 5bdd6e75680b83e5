"""Rewards of a service: called again after an error, only so long, and bugs at once."""

import pickle
import sys
import threading
import time

import numpy as np
import pytest

from tril_gym import rewards
from tril_gym.rewards.retries import Retried
from tril_gym.utils import attempts
from tril_gym.utils.attempts import attempt
from tril_gym.wrappers.reward_term import Term

TEXTS = (["p"] * 3, ["a", "bb", "ccc"], [[]] * 3, [{}] * 3)


@pytest.fixture
def pauses(monkeypatch):
    """Seconds that were slept."""
    slept = []
    monkeypatch.setattr(attempts.time, "sleep", slept.append)
    return slept


def failing(times, error):
    """A reward that raises at its first calls."""
    calls = []

    def service(prompts, completions, references, extras):
        calls.append(len(completions))
        if len(calls) <= times:
            raise error
        return [len(text) for text in completions]

    service.calls = calls
    return service


def test_a_function_is_called_again_by_default(pauses, caplog):
    service = failing(2, ConnectionError("down"))
    assert rewards.as_score(service)(*TEXTS).tolist() == [1, 2, 3]
    assert (service.calls, pauses) == ([3, 3, 3], [1.0, 2.0])
    assert "reward 'service' raised ConnectionError: down (attempt 2 of 3); it is called again in 2 s" in caplog.text


def test_the_last_error_is_raised_with_the_text(pauses):
    service = failing(9, ConnectionError("down"))
    infos = [{"prompt": "p", "completion": "a", "references": [], "extras": {}}]
    with pytest.raises(RuntimeError, match=r"reward 'service' failed on the text 'a': .*down"):
        Term("service", rewards.with_retries(service, retries=3, pause=0.5), 1.0)(infos)
    assert (len(service.calls), pauses) == (4, [0.5, 1.0, 2.0])


@pytest.mark.parametrize("error", [TypeError("bug"), NameError("bug"), AssertionError("bug")])
def test_a_bug_is_raised_at_once(pauses, error):
    service = failing(1, error)
    with pytest.raises(type(error)):
        rewards.as_score(service)(*TEXTS)
    assert (len(service.calls), pauses) == (1, [])


def test_a_call_that_hangs_ends(pauses):
    release = threading.Event()

    def hanging(completions):
        release.wait(30)
        return [0.0] * len(completions)

    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        rewards.with_retries(hanging, retries=1, timeout=0.05)(*TEXTS)
    assert time.monotonic() - start < 10
    release.set()
    assert rewards.with_retries(hanging, timeout=30)(*TEXTS).tolist() == [0, 0, 0]


def test_errors_in_the_thread_of_a_timeout_are_raised():
    with pytest.raises(KeyError):
        attempt(lambda: {}["x"], what="it", retries=0, pause=0.0, timeout=5.0)


@pytest.mark.parametrize(
    "settings",
    [{"retries": -1}, {"retries": 1.5}, {"pause": -1.0}, {"pause": float("nan")}, {"timeout": 0}, {"timeout": "long"}],
)
def test_settings_out_of_bounds_are_refused(settings):
    with pytest.raises(ValueError, match=rf"{next(iter(settings))} must be"):
        rewards.with_retries(len, **settings)


class TestByName:
    @pytest.fixture
    def own(self, tmp_path, monkeypatch):
        (tmp_path / "own_service.py").write_text(
            "from tril_gym.rewards import Score\n"
            "calls = []\n"
            "def flaky(completions):\n"
            "    calls.append(1)\n"
            "    if len(calls) == 1:\n        raise OSError('down')\n"
            "    return [1.0] * len(completions)\n"
            "class Flaky(Score):\n"
            "    name = 'flaky_class'\n    slow = True\n"
            "    def __init__(self, *, value=2.0):\n        self.value = value\n"
            "    def __call__(self, prompts, completions, references, extras):\n"
            "        return [self.value * x for x in flaky(completions)]\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        yield "own_service"
        sys.modules.pop("own_service", None)

    def test_a_function_has_the_settings(self, own, pauses):
        score = rewards.load(f"{own}:flaky", retries=1, pause=7.0, timeout=60)
        assert (score(*TEXTS).tolist(), pauses) == ([1, 1, 1], [7.0])
        with pytest.raises(ValueError, match=r"no settings of its own, got word; .* retries: retries, pause, timeout"):
            rewards.load(f"{own}:flaky", word="a")

    def test_a_class_has_them_beside_its_own(self, own, pauses):
        score = rewards.load(f"{own}:Flaky", value=3.0, retries=1, pause=7.0)
        assert (score.name, score.slow) == ("flaky_class", True)
        assert (list(score(*TEXTS)), pauses) == ([3, 3, 3], [7.0])
        with pytest.raises(ValueError, match="has no setting 'word'"):
            rewards.load(f"{own}:Flaky", word="a")

    def test_it_can_go_to_another_process(self, own):
        score = pickle.loads(pickle.dumps(rewards.load(f"{own}:flaky", retries=4)))
        assert score.function.retries == 4


def test_the_signature_is_that_of_the_function():
    """Parameters by name reach the function through the retries."""
    score = rewards.with_retries(lambda completions, extras: np.ones(len(extras)))
    assert score(*TEXTS).tolist() == [1, 1, 1]
    assert isinstance(score.function, Retried)
