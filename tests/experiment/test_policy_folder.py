"""`RUN/policy`: the newest policy of a run, at every moment, which loads in plain transformers; a run as a policy."""

import shutil

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from tril_gym.agents import LMPolicy
from tril_gym.experiment import RunConsole, configure, resume, train
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.experiment.training import new_run
from tril_gym.utils import atomic_files

SETTINGS = {"env": "tril/Toy-v0", "num_envs": 8, "eval_examples": 4, "save_every": 1, "iterations": 2, "keep": 1}


def silent():
    return RunConsole(Console(quiet=True))


def run_of(folder, **settings):
    return new_run(configure("bc", **SETTINGS | settings), folder, console=silent())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "bc"
    train(configure("bc", **SETTINGS), folder, console=silent())
    return folder


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_is_the_policy_of_the_newest_checkpoint(run, tmp_path):
    assert RunFolder(run).last_checkpoint().name == "iteration-000002"
    assert equal(weights(run / "policy"), weights(RunFolder(run).last_checkpoint() / "policy"))
    shutil.copytree(run, tmp_path / "moved", symlinks=True)  # the link is relative
    assert (tmp_path / "moved" / "policy").resolve().is_relative_to(tmp_path)
    assert equal(weights(tmp_path / "moved" / "policy"), weights(run / "policy"))


def test_it_loads_at_every_moment_of_a_save(tmp_path, monkeypatch):
    """Also with one checkpoint kept, just before and after each name on the disk changes."""
    run, seen = run_of(tmp_path / "run"), []

    def look():
        if (tmp_path / "run" / "policy").exists() or seen:
            seen.append((tmp_path / "run" / "policy" / "model.safetensors").is_file())

    def looks(function):
        def wrapped(*args, **kwargs):
            look()
            found = function(*args, **kwargs)
            look()
            return found

        return wrapped

    for name in ("rename", "replace", "unlink", "symlink_to"):
        monkeypatch.setattr(atomic_files.Path, name, looks(getattr(atomic_files.Path, name)))
    run.run()
    assert len(seen) > 8
    assert all(seen)


@pytest.mark.parametrize("links", [True, False])
def test_a_resumed_run_replaces_a_copied_folder(run, tmp_path, monkeypatch, links):
    shutil.copytree(run, tmp_path / "copy")  # follows the link
    assert not (tmp_path / "copy" / "policy").is_symlink()
    if not links:
        monkeypatch.setattr(atomic_files.Path, "symlink_to", no_links)
    resume(tmp_path / "copy", iterations=3, console=silent())
    assert (tmp_path / "copy" / "policy").is_symlink() == links
    assert equal(
        weights(tmp_path / "copy" / "policy"), weights(tmp_path / "copy" / "checkpoints/iteration-000003/policy")
    )
    assert [path.name for path in (tmp_path / "copy").glob(".*")] == []


def no_links(*args, **kwargs):
    raise OSError(1, "Operation not permitted")


def test_a_resumed_run_shows_the_checkpoint_that_is_whole(tmp_path):
    run_of(tmp_path / "run", keep=3).run()
    newest = RunFolder(tmp_path / "run").last_checkpoint()
    (newest / "agent.json").write_text("damaged")
    resume(tmp_path / "run", iterations=1, console=silent())
    assert (tmp_path / "run" / "policy").resolve().parent.name == "iteration-000001"


def test_a_run_that_starts_over_shows_no_old_policy(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy", symlinks=True)
    shutil.rmtree(tmp_path / "copy" / "checkpoints")
    resume(tmp_path / "copy", iterations=1, console=silent())
    assert (tmp_path / "copy" / "policy").resolve().parent.name == "iteration-000001"


def test_a_policy_is_loaded_from_a_run_and_from_an_agent(run):
    expected = weights(run / "policy")
    for folder in (run, str(run), run / "policy", RunFolder(run).last_checkpoint()):
        policy = LMPolicy.from_pretrained(folder)
        assert equal(policy.model.state_dict(), expected)
        assert policy.tokenizer is not None


def test_a_run_may_be_policy_and_guide(run, tmp_path):
    settings = {"policy": str(run), "guide": str(run), "preset": "embedded", "lora_rank": 2}
    config = configure("ppo-pp", **SETTINGS | settings)
    started = new_run(config, tmp_path / "run", console=silent())
    assert started.agent.guide.policy.shares_base(started.agent.policy)
    started.folder.unlock()


def test_a_run_without_a_policy_is_named(tmp_path):
    started = run_of(tmp_path / "run")
    started.folder.unlock()
    with pytest.raises(ValueError, match="is a run folder without a policy"):
        LMPolicy.from_pretrained(tmp_path / "run")
