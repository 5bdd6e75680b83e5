"""What a person sees of a run: progress, a line of figures an iteration, sample texts, tables at the end, a curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from tril_gym.experiment.build import Parts
    from tril_gym.experiment.config import RunConfig

# Figures of the line: label, metric, format.
LINE = (
    ("reward", "reward/mean", ".3f"),
    ("±", "reward/std", ".3f"),
    ("kl", "kl", ".2f"),
    ("loss", "policy/loss", ".3f"),
    ("entropy", "policy/entropy", ".2f"),
    ("clip", "policy/clip_fraction", ".2f"),
    ("value", "critic/explained_variance", ".2f"),
    ("length", "text/length", ".1f"),
    ("rollin", "rollin/share", ".2f"),
    ("tokens/s", "tokens_per_second", ".0f"),
)
SMOOTHING = 5  # iterations of the curve's moving mean


class RunConsole:
    """Writes to a console. Bars show on a terminal only; lines show everywhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def opening(self, config: RunConfig, parts: Parts) -> None:
        """What is about to run."""
        guide = f", guide {config.guide or config.policy}" if type(parts.agent).takes_guide else ""
        self.say(
            f"{config.algorithm} on {config.env}: policy {config.policy}{guide}, seed {config.seed},"
            f" {config.iterations} iterations of {parts.agent.episodes} texts; held out: {parts.held_out}"
        )

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Say that something takes a while."""
        if self.console.is_terminal:
            with self.console.status(escape(what)):
                yield
        else:
            self.say(what)
            yield

    @contextmanager
    def learning(self, iterations: int, done: int) -> Iterator[None]:
        """A bar over the iterations."""
        columns = (TextColumn("learning"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
        visible = self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=not visible) as progress:
            self._progress, self._task = progress, progress.add_task("learning", total=iterations, completed=done)
            yield
        self._progress = None

    def figures(self, metrics: Mapping[str, float]) -> None:
        """One line for an iteration."""
        self.say(line_of_figures(metrics))
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=metrics["iteration"])

    def samples(self, samples: Sequence[Mapping[str, Any]]) -> None:
        """Some of the texts just written."""
        for sample in samples:
            prompt, completion = clip(sample["prompt"], 70), clip(sample["completion"], 110)
            self.say(f"      {sample['reward']:6.3f}  {prompt} → {completion}")

    def profile(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Where the time and memory of the iterations went."""
        if rows:
            self.console.print(profile_table(rows))

    def closing(self, folder: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """What training has changed on held-out examples."""
        self.console.print(figures_table(before["figures"], after["figures"]))
        self.console.print(samples_table(before["samples"], after["samples"]))
        self.say(f"run folder: {folder} (curve: {folder / 'curve.png'}, policy: {folder}/checkpoints/*/policy)")

    def say(self, text: str) -> None:
        """A plain line, wrapped nowhere."""
        self.console.print(escape(text), soft_wrap=True)


def line_of_figures(metrics: Mapping[str, float]) -> str:
    """The figures that tell how a run goes; those that an algorithm has not are left out."""
    found = [f"{label} {metrics[name]:{style}}" for label, name, style in LINE if name in metrics]
    return f"{metrics['iteration']:4d}  " + "  ".join(found)


def clip(text: str | None, width: int) -> str:
    """A text on one line, its end cut off where it is too long."""
    line = " ".join((text or "").split())
    return line if len(line) <= width else line[: width - 1] + "…"


def figures_table(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    """Held-out figures before and after, greedy and sampled."""
    table = Table(title="held-out examples", title_justify="left")
    table.add_column("figure", no_wrap=True)
    for name in before:
        for when in ("before", "after"):
            table.add_column(f"{name} {when}", justify="right")
    names = dict.fromkeys(name for part in (*after.values(), *before.values()) for name in part)
    for name in names:
        cells = [part.get(name) for kind in before for part in (before[kind], after[kind])]
        table.add_row(name, *("" if cell is None else f"{cell:.4g}" for cell in cells))
    return table


def evaluation_table(
    title: str,
    figures: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]],
) -> Table:
    """Figures of one evaluation; the written file has all their digits."""
    title = escape(f"{title}; in brackets: 95 % bootstrap intervals")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("figure", no_wrap=True)
    for name in figures:
        table.add_column(name)
    for name in dict.fromkeys(name for part in figures.values() for name in part):
        table.add_row(name, *(_cell(part.get(name), intervals[how].get(name)) for how, part in figures.items()))
    return table


def _cell(figure: float | None, interval: tuple[float, float] | None) -> str:
    if figure is None:
        return ""
    return f"{figure:<7.4g}" + (f" [dim]\\[{interval[0]:.3g}, {interval[1]:.3g}][/dim]" if interval else "")


# What the parts of an iteration do.
PARTS = {
    "collect": "sampling: policy and guide write",
    "score": "environment and reward",
    "reference": "reference policy reads",
    "values": "critic reads",
    "discriminator": "discriminator learns and judges",
    "learn": "learning",
    "other": "the rest",
}


def profile_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Mean seconds of each part of an iteration, its share, and the peak of memory in it."""
    measured = rows[1:] or rows  # the first iteration also loads and allocates
    parts = [name for name in PARTS if any(f"time/{name}" in row for row in measured)]
    seconds = {name: sum(row.get(f"time/{name}", 0.0) for row in measured) / len(measured) for name in parts}
    table = Table(title="where the time and memory of an iteration went", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("part", no_wrap=True)
    for column in ("seconds", "share", "peak MiB"):
        table.add_column(column, justify="right")
    total = sum(seconds.values()) or 1.0
    for name in parts:
        peaks = [row[f"memory/{name}"] for row in measured if f"memory/{name}" in row]
        share, peak = f"{seconds[name] / total:.1%}", f"{max(peaks):.0f}" if peaks else ""
        table.add_row(PARTS[name], f"{seconds[name]:.3f}", share, peak)
    speed = sum(row["tokens_per_second"] for row in measured) / len(measured)
    table.caption = f"{len(measured)} iterations of {total:.3f} seconds, {speed:.0f} tokens a second"
    return table


def samples_table(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Table:
    """The same examples, as the policy wrote them before and after."""
    table = Table(
        title="held-out texts as the policy samples them, reward in brackets", title_justify="left", show_lines=True
    )
    for column in ("prompt", "before", "after"):
        table.add_column(column, ratio=1)
    for old, new in zip(before, after, strict=True):
        cells = (f"{clip(sample['completion'], 300)} ({sample['reward']:.3f})" for sample in (old, new))
        table.add_row(escape(clip(old["prompt"], 300)), *map(escape, cells))
    return table


def draw_curve(
    path: Path, rows: Sequence[Mapping[str, Any]], before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    """The reward over the iterations, with what the held-out examples earned before and after, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    iterations = [row["iteration"] for row in rows]
    rewards = [row["reward/mean"] for row in rows]
    smooth = [
        sum(part) / len(part) for part in (rewards[max(0, i + 1 - SMOOTHING) : i + 1] for i in range(len(rewards)))
    ]
    axes.plot(iterations, rewards, color="0.75", linewidth=1, label="collected texts")
    axes.plot(iterations, smooth, color="C0", linewidth=2, label=f"their mean over {SMOOTHING} iterations")
    ends = [0, iterations[-1] if iterations else 0]
    for name, marker in (("greedy", "o"), ("sampled", "s")):
        held = [part["figures"][name]["reward/mean"] for part in (before, after)]
        axes.plot(
            ends, held, marker, color="C1", label=f"held-out, {name}", fillstyle="none" if name == "sampled" else None
        )
    axes.set_xlabel("iteration")
    axes.set_ylabel("mean reward of a text")
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(path)
