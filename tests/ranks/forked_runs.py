"""Run commands of `tril-gym` in several processes each, one command after the other, with a single import of torch.

    python forked_runs.py '[[2, ["train", "ppo", …]], …]'

It does what a launcher does, but forks, which takes no time; prints the exit codes of each command as JSON. Other
scripts use `run` to do their own work as ranks.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch  # noqa: F401  imported once for all

import tril_gym.agents
import tril_gym.experiment.training  # noqa: F401
from tril_gym.cli import main


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(work: Callable[[], object], rank: int, size: int, port: int) -> int:
    """Fork a process that does some work as a rank; return its number."""
    if process := os.fork():
        return process
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code: Any = 1
    try:
        os.dup2(2, 1)  # standard output has the exit codes
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def run(size: int, work: Callable[[], object]) -> list[int]:
    """Return the exit codes of the ranks that do some work."""
    port = free_port()
    processes = [start(work, rank, size, port) for rank in range(size)]
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


if __name__ == "__main__":
    print(json.dumps([run(size, lambda: main(command)) for size, command in json.loads(sys.argv[1])]))  # noqa: B023
