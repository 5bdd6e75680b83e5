"""What a person sees while a run runs: messages, warnings and a progress bar."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Protocol, TextIO, cast

from rich.console import Console, RenderableType
from rich.file_proxy import FileProxy
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tril_gym.utils.heartbeat import SECONDS, Activity, heartbeat

LINE_SECONDS = 10.0  # between lines of a count where there is no terminal


def standard_output() -> Any:
    """Return standard output, None where there is none; of rich's stand-in, which prints on a console, its output."""
    return sys.stdout.rich_proxied_file if isinstance(sys.stdout, FileProxy) else sys.stdout


class SteadyOutput:
    """Standard output that goes nowhere, instead of raising, once nobody reads it any more."""

    is_open = True

    @property
    def encoding(self) -> str:
        """The encoding of standard output."""
        return getattr(standard_output(), "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        output = standard_output()
        return self.is_open and output is not None and output.isatty()

    def fileno(self) -> int:
        """Return its descriptor."""
        number: int = standard_output().fileno()
        return number

    def write(self, text: str) -> int:
        """Write a text."""
        self._do(lambda output: output.write(text))
        return len(text)

    def flush(self) -> None:
        """Hand on what is buffered."""
        self._do(lambda output: output.flush())

    def _do(self, work: Callable[[Any], Any]) -> None:
        output = standard_output()
        if not self.is_open or output is None:
            return
        try:
            work(output)
        except (OSError, ValueError):  # a pipe that is closed, a terminal that is gone, a closed file
            self.is_open = False
            with suppress(OSError, ValueError):  # what is buffered goes nowhere, so that Python's exit does not fail
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, output.fileno())
                os.close(nowhere)


class RunConsole:
    """Print the messages of a run. Bars and spinners appear on a terminal only, lines everywhere.

    Where the output is closed (`| head`, a terminal that is gone) the rest is not printed; the run continues.

    Args:
        console: the rich console to print on; by default standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=cast(TextIO, SteadyOutput()), highlight=False)
        self.activity = Activity("preparing the run")

    def say(self, text: str) -> None:
        """Print one line without wrapping it."""
        self.console.print(escape(text), soft_wrap=True)
        self.activity.mark_output()

    def warn(self, text: str) -> None:
        """Print a warning, also where other messages are not printed."""
        self.say(text)

    def event(self, kind: str, **content: Any) -> None:
        """Receive what happened as data; `JsonConsole` prints it."""

    def beat(self, activity: str, seconds: float) -> None:
        """Print that the run is still running; see `heartbeat`."""
        self.say(f"      … {activity}, for {seconds:.0f} s so far")

    def show(self, table: RenderableType) -> None:
        """Print a table."""
        self.console.print(table)
        self.activity.mark_output()

    @contextmanager
    def heartbeat(self, *, every: float = SECONDS) -> Iterator[None]:
        """Where there is no terminal, print a line after so many seconds without another one while the block runs."""
        with nullcontext() if self.console.is_terminal else heartbeat(self.activity, self.beat, every=every):
            yield

    @contextmanager
    def waiting(self, activity: str) -> Iterator[None]:
        """Announce an activity that takes a while; on a terminal, show a spinner until the block ends."""
        self.activity.begin(activity)
        if self.console.is_terminal:
            with self.console.status(escape(activity)):
                yield
        else:
            self.say(activity)
            yield

    @contextmanager
    def counting(self, label: str, unit: str) -> Iterator[Callable[[int], None]]:
        """Yield a function that shows a count on a terminal, elsewhere as a line after every ten seconds."""
        if self.console.is_terminal:
            with self.console.status(escape(label)) as status:
                yield lambda count: status.update(escape(f"{label}: {count:,} {unit}"))
            return
        printed = time.monotonic()

        def show(count: int) -> None:
            nonlocal printed
            if time.monotonic() - printed >= LINE_SECONDS:
                printed = time.monotonic()
                self.say(f"{label}: {count:,} {unit}")

        yield show

    @contextmanager
    def progress(
        self,
        label: str,
        *,
        total: int,
        completed: int = 0,
        line_every: float | None = None,
        table: Callable[[], RenderableType] | None = None,
    ) -> Iterator[ShowSteps]:
        """Show a bar; yield a function that sets how many steps of `total` are complete.

        Args:
            label: what makes progress.
            total: number of steps.
            completed: steps that are complete already.
            line_every: where there is no terminal, print a line after so many seconds each.
            table: returns what to show above the bar.
        """
        is_seen = self.console.is_terminal or (table is not None and self.console.is_jupyter)
        if line_every is not None and not is_seen:
            yield self._progress_lines(label, total, line_every)
            return
        bar = _Bar(self.console, table, is_live=is_seen and not self.console.is_jupyter)
        task = bar.add_task(escape(label), total=total, completed=completed, status="")
        with bar, _in_notebook(bar) if is_seen and self.console.is_jupyter else nullcontext(lambda: None) as refresh:

            def show(steps: int, status: str = "") -> None:
                bar.update(task, completed=steps, status=escape(status))
                refresh()

            yield show

    def _progress_lines(self, label: str, total: int, seconds: float) -> ShowSteps:
        """Return a function that prints a line whenever so many seconds have passed."""
        start = printed = time.monotonic()

        def show(steps: int, status: str = "") -> None:
            nonlocal printed
            now = time.monotonic()
            if now - printed >= seconds:
                printed = now
                self.say(f"{label}: {steps} of {total} steps after {now - start:.0f} s  {status}".rstrip())

        return show


class ShowSteps(Protocol):
    """Sets what a progress bar shows."""

    def __call__(self, steps: int, status: str = "") -> None:
        """Set the number of complete steps, and the text after the bar."""


class _Bar(Progress):
    """A progress bar that goes when it is complete, with a table above it."""

    def __init__(self, console: Console, table: Callable[[], RenderableType] | None, *, is_live: bool) -> None:
        self._table = table
        columns = (TextColumn("{task.description}"), BarColumn(20 if table else 40), MofNCompleteColumn())
        rest = (TimeRemainingColumn(), TextColumn("left  {task.fields[status]}"))
        super().__init__(*columns, *rest, console=console, transient=True, disable=not is_live)

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the table and the bar."""
        if self._table is not None:
            yield self._table()
        yield self.make_tasks_table(self.tasks)


@contextmanager
def _in_notebook(bar: _Bar) -> Iterator[Callable[[], None]]:
    """Show a bar in the output of a notebook's cell; yield a function that draws it again, at most once a second."""
    from IPython.display import display
    from rich.text import Text

    handle, drawn = display(bar, display_id=True), time.monotonic()

    def refresh() -> None:
        nonlocal drawn
        if time.monotonic() - drawn >= 1.0:
            drawn = time.monotonic()
            handle.update(bar)

    try:
        yield refresh
    finally:
        handle.update(Text(""))
