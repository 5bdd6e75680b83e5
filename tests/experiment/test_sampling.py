"""Sampling from the policy of a run: as in training, but for what is asked for."""

import pytest
from rich.console import Console

from tril_gym.experiment import RunConsole, configure
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
