"""Contestants measured side by side: one run, in turns, after a warm-up; medians, ranges and ratios of the same round.

A machine slows down and speeds up while a benchmark runs. So contestants take turns, every second round in reverse
order, and a ratio is the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

LIBRARIES = ("torch", "transformers", "gymnasium", "numpy")
PAUSE = 0.02  # seconds between turns, in which the threads of the last one go to sleep


@dataclass(frozen=True)
class Sample:
    """What one turn of a contestant took, and how much it made in it."""

    seconds: float
    amount: float
    more: dict[str, float] = field(default_factory=dict)  # further figures by name


@dataclass(frozen=True)
class Spread:
    """Median and range."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of these values."""
        return Spread(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{figure(self.median)} ({figure(self.low)} … {figure(self.high)})"


@dataclass(frozen=True)
class Target:
    """What the ratio of two contestants should be.

    The ratio is that of their speeds, the first's over the second's.
    """

    first: str
    second: str
    at_least: float | None = None  # None: only shown

    def met(self, ratio: float) -> bool | None:
        """Whether a ratio is as it should be; None where nothing is asked."""
        return None if self.at_least is None else ratio >= self.at_least


@dataclass(frozen=True)
class Comparison:
    """Contestants on the same work.

    Args:
        title: what the work is.
        unit: of the amounts that they make.
        contestants: by name; each call is a turn, and returns how it went.
        targets: ratios that are shown.
        same_turns: every turn is the same work, though its amount may be drawn, as texts of random length are; then
            the ratios of whole turns are shown, too.
    """

    title: str
    unit: str
    contestants: Mapping[str, Callable[[], Sample]]
    targets: Sequence[Target] = ()
    same_turns: bool = False


def timed(work: Callable[[], float], timer: Callable[[], float] = time.perf_counter) -> Callable[[], Sample]:
    """A contestant of work that returns its amount."""

    def turn() -> Sample:
        begin = timer()
        amount = work()
        return Sample(timer() - begin, amount)

    return turn


def run(race: Comparison, *, repeat: int, warm_up: int = 1) -> dict[str, Any]:
    """Let the contestants take turns; returns plain data."""
    for _ in range(warm_up):
        for turn in race.contestants.values():
            turn()
    turns: dict[str, list[Sample]] = {name: [] for name in race.contestants}
    for number in range(repeat):
        for name in list(turns)[:: 1 if number % 2 == 0 else -1]:
            time.sleep(PAUSE)
            turns[name].append(race.contestants[name]())
    return summary(race, turns)


def summary(race: Comparison, turns: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """Speeds, seconds, further figures and ratios, as plain data."""
    speeds = {name: [turn.amount / turn.seconds for turn in found] for name, found in turns.items()}
    contestants = {
        name: {
            "speed": asdict(Spread.of(speeds[name])),
            "seconds": asdict(Spread.of([turn.seconds for turn in found])),
            "amount": statistics.median(turn.amount for turn in found),
            "turns": [asdict(turn) for turn in found],
        }
        | {key: asdict(Spread.of([turn.more[key] for turn in found])) for key in found[0].more}
        for name, found in turns.items()
    }
    ratios = []
    for target in race.targets:
        if target.first in speeds and target.second in speeds:
            pairs = zip(speeds[target.first], speeds[target.second], strict=True)
            ratio = Spread.of([one / other for one, other in pairs])
            ratios.append(asdict(target) | asdict(ratio) | {"met": target.met(ratio.median)})
            if race.same_turns:
                both = zip(turns[target.first], turns[target.second], strict=True)
                ratios[-1]["turns"] = asdict(Spread.of([other.seconds / one.seconds for one, other in both]))
    return {"title": race.title, "unit": race.unit, "contestants": contestants, "ratios": ratios}


def show(found: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a race as tables."""
    console = console or Console(width=max(120, Console().width))
    more = [key for key in next(iter(found["contestants"].values())) if key not in KNOWN]
    table = Table(title=found["title"], title_justify="left")
    for column in ("", f"{found['unit']}/s (range)", "seconds (range)", found["unit"], *more):
        table.add_column(column, justify="left" if column == "" else "right")
    for name, figures in found["contestants"].items():
        spreads = [str(Spread(**figures[key])) for key in ("speed", "seconds")]
        rest = [figure(figures[key]["median"]) if key in figures else "" for key in more]
        table.add_row(name, *spreads, figure(figures["amount"]), *rest)
    console.print(table)
    for ratio in found["ratios"]:
        spread = Spread(*(ratio[key] for key in ("median", "low", "high")))
        aim = (
            ""
            if ratio["at_least"] is None
            else f"; target {figure(ratio['at_least'])} or more: {VERDICT[ratio['met']]}"
        )
        turns = f"; of whole turns {Spread(**ratio['turns'])}" if "turns" in ratio else ""
        console.print(f"{ratio['first']} / {ratio['second']}: {spread}{turns}{aim}", highlight=False)
    console.print()


def show_table(title: str, rows: Mapping[str, Mapping[str, float]], console: Console | None = None) -> None:
    """Print figures by row and column."""
    table = Table(title=title, title_justify="left")
    columns = list(next(iter(rows.values())))
    for column in ("", *columns):
        table.add_column(column, justify="left" if column == "" else "right")
    for name, figures in rows.items():
        table.add_row(name, *(figure(figures[column]) for column in columns))
    (console or Console(width=120)).print(table)


KNOWN = ("speed", "seconds", "amount", "turns")
VERDICT = {True: "met", False: "MISSED"}


def figure(value: float) -> str:
    """A number with three digits that count."""
    if value == 0 or 0.001 <= abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2e}"


def plain(value: float | bool) -> str:
    """A number as `figure` writes it, or yes or no."""
    return ("yes" if value else "no") if isinstance(value, bool) else figure(value)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": processor(),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],  # of the last minute, others' work included
    }


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    options = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    options.add_argument("--repeat", type=int, default=5, help="turns of each contestant")
    options.add_argument("--threads", type=int, default=2, help="of torch")
    options.add_argument("--output", type=Path, help="also write the figures there, as JSON")
    options.add_argument("--smoke", action="store_true", help="tiny sizes, one turn: to see that it runs")
    return options


def parsed(options: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options, set torch's threads, print the machine."""
    settings = options.parse_args(arguments)
    if settings.repeat < 1:
        options.error(f"--repeat must be at least 1, got {settings.repeat}; 5 is usual")
    if settings.smoke:
        settings.repeat = settings.threads = 1
    torch.set_num_threads(settings.threads)
    settings.machine = machine()
    Console(width=120).print(" · ".join(f"{name} {value}" for name, value in settings.machine.items()), highlight=False)
    return settings


def finish(settings: argparse.Namespace, races: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """Write the JSON; returns what is in it."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in vars(settings).items()}
    on = plain.pop("machine")
    found = {"machine": on, "settings": plain, "races": list(races)} | more
    if settings.output:
        settings.output.write_text(json.dumps(found, indent=2) + "\n")
    return found
