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
