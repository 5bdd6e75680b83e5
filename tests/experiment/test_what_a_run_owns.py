"""What belongs to a run: its folder, its checkpoints, and how its policy is loaded."""

import logging

import gymnasium as gym
import pytest
from doubles import metrics_of

from tril_gym.agents import PPO, tiny_policy
from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.experiment import CheckpointCallback, configure, resume, train
from tril_gym.experiment import training as training_module
from tril_gym.experiment.build import restore_run
from tril_gym.experiment.lock import LockedError
from tril_gym.experiment.resuming import saved_config
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.experiment.training import new_run
from tril_gym.utils.console_modes import QuietConsole

SMALL = {"env": "tril/Toy-v0", "num_envs": 4, "eval_examples": 4, "tiny_samples": 0, "lr_schedule": "constant"}


def test_a_lost_lock_ends_the_run_without_a_line_of_metrics_of(tmp_path):
    run = new_run(configure("ppo", iterations=5, **SMALL), tmp_path / "run", console=QuietConsole())
    thief, step = RunFolder(tmp_path / "run"), run.agent.envs.step

    def stolen(actions):
        if len(thief.rows("metrics.jsonl")) == 2 and thief._lock is None:
            thief.lock(force=True)
        return step(actions)

    run.agent.envs.step = stolen
    with pytest.raises(LockedError, match="now belongs to process"):
        run.run()
    assert [row["iteration"] for row in thief.rows("metrics.jsonl")] == [1, 2]
    thief.unlock()


def test_a_run_that_began_and_ended_meanwhile_is_kept(tmp_path, monkeypatch):
    """Two processes found the folder empty; the second had built its models when the first had ended."""
    build, first = training_module.build_run, configure("ppo", iterations=1, seed=1, **SMALL)

    def slow(config, ranks):
        monkeypatch.undo()
        components = build(config, ranks)
        train(first, tmp_path / "run", console=QuietConsole())
        return components

    monkeypatch.setattr(training_module, "build_run", slow)
    with pytest.raises(ValueError, match=r"is not empty; add --resume to continue its run, or name another folder"):
        train(configure("ppo", iterations=1, seed=2, **SMALL), tmp_path / "run", console=QuietConsole())
    assert saved_config(RunFolder(tmp_path / "run")).seed == 1
    assert len(metrics_of(tmp_path / "run")) == 1
    resume(tmp_path / "run", iterations=2, console=QuietConsole())  # the folder is not locked


def test_how_the_policy_is_loaded_is_kept(tmp_path):
    train(configure("bc", iterations=1, **SMALL), tmp_path / "model", console=QuietConsole())
    settings = SMALL | {"policy": str(tmp_path / "model"), "attn_implementation": "eager", "save_every": 1}
    del settings["tiny_samples"]
    settings["learning_rate"] = 1e-3
    for name, iterations in (("whole", 2), ("halves", 1)):
        train(configure("ppo", iterations=iterations, **settings), tmp_path / name, console=QuietConsole())
    folder = RunFolder(tmp_path / "halves")
    agent = restore_run(saved_config(folder), folder.last_checkpoint(), folder.path / "reward").agent
    assert agent.policy.model.config._attn_implementation == "eager"
    resume(tmp_path / "halves", iterations=2, console=QuietConsole())
    assert metrics_of(tmp_path / "halves") == metrics_of(tmp_path / "whole")


def test_the_place_of_the_layers_is_kept(tmp_path, monkeypatch):
    train(configure("bc", iterations=1, **SMALL), tmp_path / "run", console=QuietConsole())
    folder, loaded, moved = RunFolder(tmp_path / "run"), [], []
    folder.write_config(folder.read_config() | {"policy": str(tmp_path / "run"), "device_map": "auto"})
    load, to = LMPolicy.from_pretrained.__func__, LMPolicy.to

    def noted(kind, name, **settings):
        loaded.append(settings.pop("device_map", None))
        return load(kind, name, **settings)

    monkeypatch.setattr(LMPolicy, "from_pretrained", classmethod(noted))
    monkeypatch.setattr(LMPolicy, "to", lambda policy, device: moved.append(device) or to(policy, device))
    restore_run(saved_config(folder), folder.last_checkpoint(), folder.path / "reward")
    assert "auto" in loaded
    assert moved == []


def test_the_newest_checkpoint_is_that_of_this_training(tmp_path, caplog):
    envs = gym.make_vec("tril/Toy-v0", 4, autoreset_mode="Disabled")

    def trained(iterations: int) -> CheckpointCallback:
        checkpoints = CheckpointCallback(tmp_path, every=10)
        PPO(tiny_policy(envs, samples=0), envs).learn(iterations, callbacks=[checkpoints], progress=False)
        return checkpoints

    with caplog.at_level(logging.WARNING):
        assert trained(3).newest().name == "iteration-000003"
        assert not caplog.text
        assert trained(2).newest().name == "iteration-000002"
    assert "iteration-000003 is of another training" in caplog.text
    assert CheckpointCallback(tmp_path).newest().name == "iteration-000003"
