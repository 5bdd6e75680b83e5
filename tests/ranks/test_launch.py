"""The files of examples/accelerate start runs: `accelerate launch` with two processes on the CPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tril_gym.experiment.run_folder import RunFolder

FILES = sorted((Path(__file__).parents[2] / "examples" / "accelerate").glob("*.yaml"))
REWARD = """import os
from pathlib import Path


def score(completions):
    Path(os.environ["RANKS_OF"], os.environ["RANK"] + "-" + os.environ["WORLD_SIZE"]).touch()
    return [len(text) / 20 for text in completions]
"""


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_file_starts_two_processes(file, tmp_path):
    if file.stem.startswith("deepspeed") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("accelerate starts this file where deepspeed is installed")
    reward, run = tmp_path / "reward.py", tmp_path / "run"
    reward.write_text(REWARD)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file), "-m", "tril_gym"]
    command += ["train", "ppo", "--env", "tril/Toy-v0", "--tiny-samples", "0", "--num-envs", "4", "--iterations", "2"]
    command += [
        "--minibatch-size",
        "4",
        "--eval-examples",
        "4",
        "--reward",
        f"{reward}:score",
        "--output-dir",
        str(run),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "RANKS_OF": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(RunFolder(run).rows("metrics.jsonl")) == 2
    assert sorted(path.name for path in tmp_path.glob("*-*")) == ["0-2", "1-2"]


def test_all_ways_have_a_file():
    assert [file.stem for file in FILES] == ["ddp", "deepspeed_zero1", "deepspeed_zero2", "fsdp2"]
