"""Trackers: metrics arrive in a tracker of accelerate; an unknown one is refused by name."""

import pytest

from tril_gym.experiment.tracking import Tracker


def test_metrics_arrive(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    import wandb

    tracker = Tracker("wandb")
    tracker.begin(tmp_path, {"algorithm": "ppo", "hyperparameters": {}})
    logged = []
    monkeypatch.setattr(wandb.run, "log", lambda figures, **more: logged.append(figures))
    tracker.log(1, {"reward/mean": 0.5})
    tracker.close()
    assert logged == [{"reward/mean": 0.5}]


def test_an_unknown_tracker_is_refused():
    with pytest.raises(ValueError, match=r"nope.*installed"):
        Tracker("nope")


def test_no_tracker_does_nothing(tmp_path):
    tracker = Tracker(None)
    tracker.begin(tmp_path, {})
    tracker.log(1, {"reward/mean": 0.5})
    tracker.close()


@pytest.mark.parametrize("method", ["init_trackers", "log", "end_training"])
def test_a_failure_is_said_once_and_nothing_more_is_sent(tmp_path, monkeypatch, caplog, method):
    calls = []

    class Accelerator:
        def __init__(self, **settings):
            pass

        def __getattr__(self, name):
            def call(*args, **settings):
                calls.append(name)
                if name == method:
                    raise ConnectionError("no route to host")

            return call

    monkeypatch.setattr("accelerate.Accelerator", Accelerator)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["wandb"])
    tracker = Tracker("wandb")
    tracker.begin(tmp_path, {})
    tracker.log(1, {"kl": 0.5})
    tracker.log(2, {"kl": 0.5})
    tracker.close()
    tracker.close()
    assert caplog.text.count("the tracker wandb failed (ConnectionError: no route to host)") == 1
    assert calls.count(method) == 1
