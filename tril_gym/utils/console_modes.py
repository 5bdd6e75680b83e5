"""What a run prints for programs and scripts: nothing but warnings, or one JSON object a line for programs."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

from rich.console import Console

from tril_gym.utils.atomic_files import finite_or_none
from tril_gym.utils.console import RunConsole, SteadyOutput


class QuietConsole(RunConsole):
    """Print warnings on standard error, and nothing else."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO(), quiet=True))

    def warn(self, text: str) -> None:
        """Print a warning."""
        print(text, file=sys.stderr, flush=True)


class SilentConsole(QuietConsole):
    """Print nothing, for processes beside the main one."""

    def warn(self, text: str) -> None:
        """Leave a warning to the main process."""


class JsonConsole(QuietConsole):
    """Print each event as a JSON object on a line of its own: {"event": "iteration", "reward/mean": 0.5, …}.

    Numbers that are not finite are null. Where the output is closed, the rest is not printed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._output = SteadyOutput()

    def event(self, kind: str, **content: Any) -> None:
        """Print an event."""
        self._output.write(json.dumps(finite_or_none({"event": kind} | content), ensure_ascii=False) + "\n")
        self._output.flush()

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.event("warning", message=text)

    def beat(self, activity: str, seconds: float) -> None:
        """Print that the run is still running."""
        self.event("heartbeat", activity=activity, seconds=round(seconds, 1))
