"""The progress of a training as a person sees it: a bar and a table of metrics, or a line now and then in a file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tril_gym.agents.algorithms.callback import Callback
from tril_gym.agents.algorithms.report import History, Report
from tril_gym.utils.console import RunConsole
from tril_gym.utils.tables import LINE, metrics_table

HEARTBEAT = 60.0  # seconds between lines where there is neither a terminal nor a notebook
STOPPING = "stopping after this iteration; press Ctrl-C again to stop at once"
IN_LINE = ("reward/mean", "kl")  # metrics beside the bar


class ProgressCallback(Callback):
    """Show a bar with the table of the iterations so far; leave the table.

    Where standard output is neither a terminal nor a notebook, print a line a minute.

    Args:
        console: prints; by default on standard output.
        has_table: False for the bar alone, and nothing without a terminal.
        is_stopping: returns whether the training will end after the iteration in progress.
    """

    def __init__(
        self,
        console: RunConsole | None = None,
        *,
        has_table: bool = True,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.console, self.has_table, self.is_stopping = console or RunConsole(), has_table, is_stopping
        self._rows: list[dict[str, float]] = []
        self._shown = ExitStack()

    def start(self, agent: Any, iterations: int) -> None:
        """Show the bar."""
        self._rows = []
        options: dict[str, Any] = {}
        if self.has_table:
            options = {"line_every": HEARTBEAT, "table": self._above_bar}
        label, total = agent.name if self.has_table else "training", agent.iteration + iterations
        bar = self.console.progress(label, total=total, completed=agent.iteration, **options)
        self._show = self._shown.enter_context(bar)

    def _above_bar(self) -> RenderableType:
        stopping = [Text(STOPPING)] if self.is_stopping() else []
        return Group(*([metrics_table(self._rows)] if self._rows else []), *stopping)

    def iteration(self, report: Report) -> None:
        """Show the metrics of an iteration."""
        self._rows.append(report.metrics)
        self._show(report.iteration, status_of(report.metrics) if self.has_table else "")

    def end(self, history: History) -> None:
        """Replace the bar by the table."""
        self._shown.close()
        if not self.has_table:
            return
        is_seen = self.console.console.is_terminal or self.console.console.is_jupyter
        if is_seen and self._rows:
            self.console.show(metrics_table(self._rows))
        if history.stopped is not None:
            self.console.say(f"stopped after iteration {self._rows[-1]['iteration']}: {history.stopped}")


def status_of(metrics: dict[str, float]) -> str:
    """Return the metrics beside the bar on one line."""
    return "  ".join(
        f"{label} {metrics[name]:{style}}" for label, name, style in LINE if name in IN_LINE and name in metrics
    )
