"""Sampling from the policy of a run: as in training, but for what is asked for."""

import pytest
from rich.console import Console

from tril_gym.experiment import RunConsole, configure, train
from tril_gym.experiment.sampling import sampler
from tril_gym.experiment.training import new_run
from tril_gym.functional.sampling import Decoding


@pytest.mark.filterwarnings("ignore:top_k")
def test_a_policy_samples_as_in_training(tmp_path):
    settings = {"temperature": 0.7, "top_k": 3, "top_p": 0.9}
    config = configure("ppo", env="tril/Toy-v0", num_envs=4, iterations=1, tiny_samples=0, **settings)
    run = new_run(config, tmp_path / "run", console=RunConsole(Console(quiet=True)))
    run.folder.save_checkpoint(0, run.agent.save)
    run.folder.unlock()
    assert sampler(str(tmp_path / "run")).policy.decoding == Decoding(**settings)
    assert sampler(str(tmp_path / "run"), temperature=2.0).policy.decoding == Decoding(
        **settings | {"temperature": 2.0}
    )


def test_the_best_policy_of_a_run_samples_as_the_run_does(tmp_path):
    settings = {"temperature": 0.7, "eval_every": 1, "eval_examples": 4, "env_args": {"stop": ["dog"]}}
    config = configure("ppo", num_envs=4, iterations=1, tiny_samples=0, **settings)
    train(config, tmp_path / "run", console=RunConsole(Console(quiet=True)))
    last, best = (sampler(str(tmp_path / name)) for name in ("run", "run/best"))
    assert (best.policy.decoding, best.stop) == (last.policy.decoding, ("dog",))
    assert best.policy.decoding.temperature == 0.7


def test_a_model_is_checked_unless_the_run_does_not(tmp_path, monkeypatch):
    def refuse(*of, **more):
        raise ValueError("checked")

    for checked in (True, False):
        settings = {"env": "tril/Toy-v0", "num_envs": 4, "iterations": 1, "eval_examples": 2, "tiny_samples": 0}
        train(configure("ppo", check_model=checked, **settings), tmp_path / str(checked))
    monkeypatch.setattr("tril_gym.agents.actors.policy.check_model", refuse)
    assert sampler(str(tmp_path / "False")).complete(["w2"], max_new_tokens=2)
    assert sampler(str(tmp_path / "True"), check_model=False).complete(["w2"], max_new_tokens=2)
    with pytest.raises(ValueError, match="checked"):
        sampler(str(tmp_path / "True")).complete(["w2"], max_new_tokens=2)
