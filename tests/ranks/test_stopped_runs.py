"""Runs of several processes: resumed with parts of models, ended by failures, signals and trackers, from Python."""

import subprocess
import sys

import pytest
from doubles import metrics_of
from run_commands import FORKED, clean, forked, resume, train

ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}


@pytest.mark.parametrize("variables", [{}, ZERO], ids=["shards", "zero"])
def test_parts_of_models_are_resumed_by_as_many_processes(tmp_path, variables):
    """The result is that of a run that never stopped, bit for bit."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    more = [] if variables else ["--shard-models"]
    commands = [train(halves, 1, *more), resume(halves, 3, *more, "--process-timeout", 30)]
    forked(*((2, command) for command in [*commands, train(whole, 3, *more)]), **variables)
    assert metrics_of(halves) == metrics_of(whole)
    assert len(metrics_of(whole)) == 3


def test_a_tracker_does_not_end_the_connection_between_processes(tmp_path):
    pytest.importorskip("tensorboard")
    forked((2, train(tmp_path / "run", 1, "--track", "tensorboard")))
    assert any((tmp_path / "run" / "tensorboard").rglob("events*"))


def test_a_failure_with_zero_does_not_wait_for_the_others(tmp_path):
    """The moments of the others cannot be gathered any more, so the newest checkpoint is that of the folder."""
    reward = tmp_path / "reward.py"
    reward.write_text(
        "import os\nfrom pathlib import Path\n\n\ndef score(prompts, completions, references, extras):\n"
        f"    if os.environ.get('RANK') == '0' and Path({str(tmp_path / 'run' / 'metrics.jsonl')!r}).is_file():\n"
        "        raise TypeError('broken')\n    return [len(text) / 20 for text in completions]\n"
    )
    more = ["--reward", f"{reward}:score", "--eval-every", 0, "--save-every", 10, "--process-timeout", 20]
    said = forked((2, train(tmp_path / "run", 3, *more)), code=1, **ZERO)
    assert "The newest checkpoint is of iteration 0 of 3; to continue" in said
    assert "could not be saved" not in said


def test_every_process_names_the_folder_of_the_run(tmp_path):
    reward = tmp_path / "reward.py"
    reward.write_text(
        "import os\nimport signal\nfrom pathlib import Path\n\nsent = []\n\n\n"
        "def score(prompts, completions, references, extras):\n"
        f"    begun = Path({str(tmp_path / 'run' / 'metrics.jsonl')!r}).is_file() and os.environ.get('RANK') == '0'\n"
        "    if begun and not sent:\n        sent.append(os.kill(os.getpid(), signal.SIGTERM))\n"
        "    return [len(text) / 20 for text in completions]\n"
    )
    more = ["--reward", f"{reward}:score", "--eval-every", 0]
    said = forked((2, train(tmp_path / "run", 5, *more)), code=143)
    ways_out = [line for line in said.splitlines() if "to continue, use --output-dir" in line]
    assert len(ways_out) == 2
    assert all(f"--output-dir {tmp_path / 'run'} --resume" in line for line in ways_out)


def test_python_prints_in_the_main_process_only(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(FORKED.parent)!r})\n"
        "from forked_runs import run\nfrom tril_gym.experiment import configure, train\n"
        "from tril_gym.utils.ranks import leave_ranks\n\n\ndef work():\n"
        "    config = configure('ppo', env='tril/Toy-v0', num_envs=4, eval_examples=4, iterations=1, tiny_samples=0)\n"
        f"    print('folder', train(config, {str(tmp_path / 'run')!r}).folder, flush=True)\n    leave_ranks()\n\n\n"
        "assert run(2, work) == [0, 0]\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=clean())
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("ppo on tril/Toy-v0: policy tiny") == 1
    assert done.stderr.count(f"folder {tmp_path / 'run'}\n") == 2
