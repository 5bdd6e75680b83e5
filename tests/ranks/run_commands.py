"""Commands of runs of several processes, and what runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

FORKED = Path(__file__).with_name("forked_runs.py")
SIZES = ["--num-envs", 6, "--episodes-per-iteration", 10, "--minibatch-size", 4, "--epochs", 1, "--eval-examples", 5]
RUN = [
    "--env",
    "tril/Toy-v0",
    "--tiny-samples",
    0,
    "--save-every",
    1,
    "--keep",
    4,
    "--eval-every",
    2,
    "--lr-schedule",
    "constant",
    *SIZES,
]


def train(folder: Path, iterations: int, *more: object, algorithm: str = "ppo-pp") -> list[str]:
    return [str(part) for part in ["train", algorithm, *RUN, "--iterations", iterations, "--output-dir", folder, *more]]


def resume(folder: Path, iterations: int, *more: object) -> list[str]:
    command = ["train", "ppo-pp", "--output-dir", folder, "--resume", "--iterations", iterations, *more]
    return [str(part) for part in command]


def forked(*commands: tuple[int, list[str]], code: int = 0, **variables: str) -> str:
    """Run commands, the last of which ends with this code and the others with 0; return what they say.

    Args:
        commands: each with its number of processes.
        code: exit code of each process of the last command.
        variables: of the environment of the processes.
    """
    done = subprocess.run(
        [sys.executable, str(FORKED), json.dumps(commands)], capture_output=True, text=True, env=clean() | variables
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *others, last = json.loads(done.stdout)
    assert others == [[0] * size for size, _ in commands[:-1]], done.stderr[-3000:]
    assert last == [code] * commands[-1][0], done.stderr[-3000:]
    return done.stderr


def clean() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}
