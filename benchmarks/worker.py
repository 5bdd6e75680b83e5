"""A contestant in a process of its own, which does one turn for each line that it reads; standard library alone.

So contestants of other libraries, in virtual environments of their own, take turns with ours, each keeps warm, and each
has a peak memory of its own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

MIB = 2**20


def peak() -> float:
    """The most memory that this process has had, in MiB.

    Linux's getrusage would also count what the parent had when it started this process.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    high_water = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    if high_water:
        return int(high_water[0]) * 1024 / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MIB


class Bench:
    """The contestant's side: waits for a line, answers with one. What others print goes to the standard error."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.imported = peak()

    def waits(self) -> bool:
        """Wait for the next turn; False where there is none."""
        return bool(sys.stdin.readline())

    def tell(self, **figures: float) -> None:
        """Answer."""
        print(json.dumps(figures), file=self.answers, flush=True)

    def serve(self, turn: Callable[[], dict[str, float]]) -> None:
        """A turn for each line: what it returns is told, and the peak memory, whole and above what imports took."""
        self.tell()
        while self.waits():
            self.tell(**turn(), **self.memory())

    def memory(self) -> dict[str, float]:
        """Peak so far, MiB."""
        return {"peak MiB": peak(), "above imports": peak() - self.imported}


class Worker:
    """The driver's side.

    Args:
        command: starts the contestant.
        log: a file for what it prints besides.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def read(self) -> dict[str, Any]:
        """Its next answer.

        Raises:
            RuntimeError: it came to an end.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args)} ended:\n{self.log.read_text()[-3000:]}")  # type: ignore[arg-type]
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self) -> dict[str, Any]:
        """A turn."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()
