"""Run a variant in its own process, which makes one measurement for each line that it reads; standard library only.

So variants in other virtual environments can be measured alternately with ours, each stays warm between measurements,
and each has its own peak memory.
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
    """Return the peak memory of this process, in MiB.

    On Linux, getrusage also counts the memory of the parent at the time it started this process.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    high_water = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    if high_water:
        return int(high_water[0]) * 1024 / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MIB


class Bench:
    """The side of the variant: answers each line on standard input with one line of JSON.

    Standard output is redirected to standard error, for whatever libraries print.
    """

    def __init__(self) -> None:
        self.output = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.imported = peak()

    def wait(self) -> bool:
        """Wait for the next request; return False if there is none."""
        return bool(sys.stdin.readline())

    def answer(self, **metrics: float) -> None:
        """Send an answer."""
        print(json.dumps(metrics), file=self.output, flush=True)

    def serve(self, measure: Callable[[], dict[str, float]]) -> None:
        """Answer each request with a measurement and the peak memory, total and above the imports."""
        self.answer()
        while self.wait():
            self.answer(**measure(), **self.memory())

    def memory(self) -> dict[str, float]:
        """Return the peak memory so far in MiB."""
        return {"peak MiB": peak(), "above imports": peak() - self.imported}


class Worker:
    """The side of the benchmark: starts the process of a variant and requests measurements.

    Args:
        command: command line of the process.
        log: file for its standard error.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def read(self) -> dict[str, Any]:
        """Read the next answer.

        Raises:
            RuntimeError: the process has ended.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args)} ended:\n{self.log.read_text()[-3000:]}")  # type: ignore[arg-type]
        answer: dict[str, Any] = json.loads(line)
        return answer

    def request(self) -> dict[str, Any]:
        """Request a measurement."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()
