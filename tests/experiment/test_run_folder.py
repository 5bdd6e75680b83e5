"""Run folders: settings with a version, metrics that end where the checkpoint does, and runs of other versions."""

import errno
import json

import pytest
import yaml
from click.testing import CliRunner

import tril_gym
from tril_gym.cli import main
from tril_gym.experiment.run_folder import KEPT, RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def test_settings_are_read_as_written(folder):
    settings = {
        "learning_rate": 1e-5,
        "adam_betas": [0.9, 0.999],
        "env": "tril/Toy-v0",
        "guide": None,
        "text": "é: [1]",
    }
    folder.write_config(settings)
    assert folder.read_config() == settings
    assert yaml.safe_load((folder.path / "config.yaml").read_text())["version"] == tril_gym.__version__


@pytest.mark.parametrize("version", ["0.1.0", "9.0.1"])
def test_another_version_is_refused(folder, version):
    (folder.path / "config.yaml").write_text(f"version: {version}\nalgorithm: ppo\n")
    with pytest.raises(ValueError, match=rf"tril-gym {version} wrote the run.*{tril_gym.__version__} cannot resume"):
        folder.read_config()


def test_another_patch_version_is_read(folder, monkeypatch):
    folder.write_config({"seed": 1})
    monkeypatch.setattr("tril_gym.experiment.run_folder.__version__", "0.2.7")
    assert folder.read_config() == {"seed": 1}


@pytest.mark.parametrize("content", ["- 1\n", "seed: 1\n", "a: [", ""])
def test_a_broken_config_is_named(folder, content):
    (folder.path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"no run folder: config\.yaml cannot be read"):
        folder.read_config()


def test_an_empty_folder_is_no_run(folder):
    assert not folder.is_run()
    with pytest.raises(ValueError, match="no run folder"):
        folder.read_config()


def test_a_model_folder_is_no_run(folder):
    (folder.path / "config.json").write_text('{"model_type": "gpt2"}')
    assert not folder.is_run()


@pytest.mark.parametrize("command", ["resume", "evaluate", "reward-model"])
def test_a_run_of_the_first_version_is_refused(tmp_path, command):
    run = tmp_path / "old"
    policy = run / "checkpoints" / "iteration-000003" / "policy"
    policy.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"algorithm": "ppo", "iterations": 3, "knobs": {"epochs": 2}}))
    before = sorted(run.rglob("*"))
    words = {
        "resume": ["train", "ppo", "--resume", "--iterations", "9", "--output-dir"],
        "evaluate": ["evaluate"],
        "reward-model": ["train", "reward-model", "--resume", "--output-dir"],
    }
    result = CliRunner().invoke(main, [*words[command], str(run)])
    assert result.exit_code == 2
    message = "".join(result.output.split())
    assert f"tril-gym0.1.0wrotetherunin{run},and{tril_gym.__version__}" in message
    if command != "reward-model":  # whose checkpoints hold no policy
        assert f"--policy{policy}" in message
    assert sorted(run.rglob("*")) == before


def test_a_folder_that_the_system_refuses_is_named(tmp_path, monkeypatch):
    def full(*arguments, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "mkdir", full)
    with pytest.raises(
        ValueError, match=r"--output-dir .*new cannot be created: No space left on device; name another"
    ):
        RunFolder(tmp_path / "new").create()


def test_metrics_after_the_checkpoint_are_removed(folder):
    folder.append("metrics.jsonl", {"iteration": 1}, {"iteration": 2}, {"iteration": 3})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 4')  # interrupted
    folder.truncate_after(2)
    assert folder.rows("metrics.jsonl") == [{"iteration": 1}, {"iteration": 2}]
    assert folder.rows("samples.jsonl") == []


def test_the_last_checkpoints_are_kept(folder):
    for iteration in range(5):
        folder.save_checkpoint(iteration, lambda path: path.mkdir(parents=True))
    assert [path.name for path in folder.checkpoints()] == [f"iteration-{n:06d}" for n in range(5 - KEPT, 5)]
    assert folder.last_checkpoint().name == "iteration-000004"


def test_a_folder_that_may_not_be_written_to_is_not_locked(forbidden):
    with pytest.raises(ValueError, match="is no folder that you may write to; use a copy"):
        RunFolder(forbidden).lock()
