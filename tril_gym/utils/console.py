"""What a person sees of a run: messages, a progress bar, one line of metrics per iteration, tables at the end."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Protocol, TextIO, cast

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.file_proxy import FileProxy
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tril_gym.utils.heartbeat import SECONDS, Activity, heartbeat

# Columns of `metrics_line`: label, metric, format.
LINE = (
    ("reward", "reward/mean", ".3f"),
    ("±", "reward/std", ".3f"),
    ("held out", "held_out/greedy/reward/mean", ".3f"),
    ("kl", "kl", ".2f"),
    ("loss", "policy/loss", ".3f"),
    ("entropy", "policy/entropy", ".2f"),
    ("clip", "policy/clip_fraction", ".2f"),
    ("value", "critic/explained_variance", ".2f"),
    ("length", "text/length", ".1f"),
    ("rollin", "rollin/share", ".2f"),
    ("tokens/s", "tokens_per_second", ".0f"),
)

# Rows of `profile_table`: the parts of an iteration that `time/…` and `memory/…` name.
PROFILED = {
    "collect": "sampling: policy and guide write",
    "score": "environment and reward",
    "reference": "log-probabilities of the reference policy",
    "values": "values of the critic",
    "discriminator": "discriminator: update and rewards",
    "learn": "update of policy and critic",
    "other": "the rest",
}

LINE_SECONDS = 10.0  # between lines of a count where there is no terminal

# Metrics that `comparison_table` leaves out: they are in its title, or follow from the intervals.
NOT_COMPARED = ("examples", "reward/stderr")


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


def metrics_line(metrics: Mapping[str, float], *, has_reward: bool = True) -> str:
    """Return the main metrics of an iteration on one line, without those that the algorithm does not have.

    Args:
        metrics: of the iteration.
        has_reward: False leaves out the reward, where nothing scores the texts.
    """
    shown = [column for column in LINE if has_reward or not column[1].startswith("reward/")]
    found = [f"{label} {_number(metrics[name], style)}" for label, name, style in shown if name in metrics]
    return f"{metrics['iteration']:4d}  " + "  ".join(found)


def metrics_table(rows: Sequence[Mapping[str, float]], *, limit: int = 10) -> Table:
    """Return a table of the main metrics of some iterations: the first, the last, and others evenly between them.

    Where there are iterations with an evaluation, it shows those and the last one.

    Args:
        rows: the metrics of each iteration.
        limit: rows of the table.
    """
    evaluated = [row for row in rows[:-1] if any(name.startswith("held_out/") for name in row)]
    rows = [*(evaluated or rows[:-1]), *rows[-1:]]
    if len(rows) > limit:
        rows = [rows[round(number * (len(rows) - 1) / (limit - 1))] for number in range(limit)]
    shown = [column for column in LINE if any(column[1] in row for row in rows)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for label in ("iteration", *(label for label, _, _ in shown)):
        table.add_column(label, justify="right", no_wrap=True)
    for row in rows:
        cells = (_number(row[name], style) if name in row else "" for _, name, style in shown)
        table.add_row(str(row["iteration"]), *cells)
    return table


def _number(value: float, style: str) -> str:
    """Return a metric in its style, or with an exponent where it is large, as the critic's share of no variance is."""
    return f"{value:z{style}}" if style == ".0f" or not abs(value) >= 1e5 else f"{value:.2e}"


def sample_line(sample: Mapping[str, Any]) -> str:
    """Return one sampled text with its reward and prompt on one line."""
    reward = _reward(sample["reward"], "6.3f")
    return f"      {reward}  {clip_text(sample['prompt'], 70)} → {clip_text(sample['completion'], 110)}"


def _reward(value: float | None, style: str) -> str:
    """Return a reward as text; a file has null for one that is not finite."""
    return f"{math.nan if value is None else value:{style}}"


def clip_text(text: str | None, width: int) -> str:
    """Return a text on one line of at most `width` characters."""
    line = " ".join((text or "").split())
    return line if len(line) <= width else line[: width - 1] + "…"


def comparison_table(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    """Return a table of two evaluations: metrics before and after training, one row for each way of decoding.

    Args:
        before: "metrics" and "intervals" for each way of decoding.
        after: the same.
    """
    examples = max(metrics["examples"] for metrics in after["metrics"].values())
    title = f"{examples} held-out examples; in brackets: 95 % bootstrap intervals"
    # 80 columns hold all of it, but for long names.
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False
    )
    for column in ("metric", "", "before", "after"):
        table.add_column(column, no_wrap=True, min_width=None if column == "metric" else max(7, len(column)))
    names = dict.fromkeys(name for metrics in after["metrics"].values() for name in metrics)
    for name in (name for name in names if name not in NOT_COMPARED):
        for decoding in (decoding for decoding, metrics in after["metrics"].items() if name in metrics):
            found = ((part["metrics"][decoding], part["intervals"][decoding]) for part in (before, after))
            cells = (_cell(values.get(name), bounds.get(name)) for values, bounds in found)
            table.add_row(name, decoding, *cells)
    return table


def runs_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of runs, each compared with the first; the rows are those of `comparison`."""
    title = "held-out reward; Δ: difference to the first run ± half its 95 % interval"
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False
    )
    table.add_column("run", overflow="fold")
    for column in ("greedy", "Δ", "sampled", "Δ", "KL"):
        table.add_column(column, justify="right", no_wrap=True)
    for number, row in enumerate(rows):
        cells = []
        for found in (row["greedy"], row["sampled"]):
            low, high = found["interval"]
            difference = f"{found['difference']:+.3f} ± {(high - low) / 2:.3f}"
            cells += [f"{found['mean']:.3f}", difference if number else ""]
        table.add_row(escape(row["name"]), *cells, "" if row["kl"] is None else f"{row['kl']:.1f}")
    return table


def evaluation_table(
    title: str,
    metrics: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]],
) -> Table:
    """Return a table of the metrics of one evaluation, with 95 % intervals in brackets where there are some."""
    examples = max(found["examples"] for found in metrics.values())
    title = escape(f"{title}: {examples:.0f} examples; in brackets: 95 % bootstrap intervals")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("metric", no_wrap=True)
    for decoding in metrics:
        table.add_column(decoding, no_wrap=True)
    names = dict.fromkeys(name for found in metrics.values() for name in found)
    for name in (name for name in names if name not in NOT_COMPARED):
        table.add_row(name, *(_cell(found.get(name), intervals[key].get(name)) for key, found in metrics.items()))
    return table


def _cell(value: float | None, interval: tuple[float, float] | None) -> str:
    """Return a cell of at most 20 characters for values from 0 to 100, so that the table fits 80 columns."""
    if value is None:
        return ""
    numbers = (value, *(() if interval is None or None in interval else interval))
    largest = max(map(abs, numbers))
    # Up to 1e-5 it is rounding, such as a KL divergence before training.
    style = ".1f" if largest >= 10 else ".3f" if largest >= 0.001 else ".0e" if largest > 1e-5 else ".0f"
    first, *bounds = (f"{number:z{style}}" for number in numbers)
    return first.ljust(5) + (f" [dim]\\[{', '.join(bounds)}][/dim]" if bounds else "")


def samples_table(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of the texts that the policy sampled for the same examples before and after training."""
    title = "held-out texts sampled from the policy, reward in brackets"
    table = Table(title=title, title_justify="left", show_lines=True)
    for column in ("prompt", "before", "after"):
        table.add_column(column, ratio=1)
    for old, new in zip(before, after, strict=True):
        cells = (
            f"{clip_text(sample['completion'], 300)} ({_reward(sample['reward'], '.3f')})" for sample in (old, new)
        )
        table.add_row(escape(clip_text(old["prompt"], 300)), *map(escape, cells))
    return table


def profile_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of mean seconds, share and peak memory of each part of an iteration, from metrics by iteration."""
    measured = rows[1:] or rows  # the first iteration also loads and allocates
    parts = [name for name in PROFILED if any(f"time/{name}" in row for row in measured)]
    seconds = {name: sum(row.get(f"time/{name}") or 0.0 for row in measured) / len(measured) for name in parts}
    table = Table(title="time and memory of an iteration", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("part", no_wrap=True)
    for column in ("seconds", "share", "peak MiB"):
        table.add_column(column, justify="right")
    total = sum(seconds.values()) or 1.0
    for name in parts:
        peaks = [row[f"memory/{name}"] for row in measured if row.get(f"memory/{name}") is not None]
        share, peak = f"{seconds[name] / total:.1%}", f"{max(peaks):.0f}" if peaks else ""
        table.add_row(PROFILED[name], f"{seconds[name]:.3f}", share, peak)
    speed = sum(row["tokens_per_second"] or 0.0 for row in measured) / len(measured)
    table.caption = f"{len(measured)} iterations of {total:.3f} seconds, {speed:.0f} tokens per second"
    return table
