"""Measure variants of the same work side by side, and compare their speeds.

The speed of a machine drifts while a benchmark runs. Therefore the variants are measured alternately, in rounds after a
warm-up, every second round in reverse order, and a ratio of speeds is the median of the ratios within a round.
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
PAUSE = 0.02  # seconds between samples, in which the threads of the last one go to sleep


@dataclass(frozen=True)
class Sample:
    """One measurement of a variant: its duration, and the amount of work done."""

    seconds: float
    amount: float
    extra: dict[str, float] = field(default_factory=dict)  # further metrics by name


@dataclass(frozen=True)
class Spread:
    """Median and range."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Compute the spread of these values."""
        return Spread(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{format_number(self.median)} ({format_number(self.low)} … {format_number(self.high)})"


@dataclass(frozen=True)
class Target:
    """The ratio of the speeds of two variants, the first's over the second's, and its lower bound."""

    first: str
    second: str
    at_least: float | None = None  # None: the ratio is only shown

    def met(self, ratio: float) -> bool | None:
        """Return whether the ratio reaches the bound; None without a bound."""
        return None if self.at_least is None else ratio >= self.at_least


@dataclass(frozen=True)
class Comparison:
    """Variants of the same work.

    Args:
        title: description of the work.
        unit: unit of the amount of work.
        variants: one function per variant; each call is one measurement.
        targets: ratios to show.
        fixed_work: every sample does the same work, even if its amount is random, as that of texts of random length;
            then the ratios of seconds are shown as well.
    """

    title: str
    unit: str
    variants: Mapping[str, Callable[[], Sample]]
    targets: Sequence[Target] = ()
    fixed_work: bool = False


def timed(work: Callable[[], float], timer: Callable[[], float] = time.perf_counter) -> Callable[[], Sample]:
    """Turn a function that returns the amount of its work into a variant."""

    def measure() -> Sample:
        begin = timer()
        amount = work()
        return Sample(timer() - begin, amount)

    return measure


def run(comparison: Comparison, *, repeat: int, warm_up: int = 1) -> dict[str, Any]:
    """Measure every variant `repeat` times; return `summary`."""
    for _ in range(warm_up):
        for measure in comparison.variants.values():
            measure()
    samples: dict[str, list[Sample]] = {name: [] for name in comparison.variants}
    for number in range(repeat):
        for name in list(samples)[:: 1 if number % 2 == 0 else -1]:
            time.sleep(PAUSE)
            samples[name].append(comparison.variants[name]())
    return summary(comparison, samples)


def summary(comparison: Comparison, samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """Return speeds, seconds, further metrics and ratios as plain data."""
    speeds = {name: [sample.amount / sample.seconds for sample in own] for name, own in samples.items()}
    variants = {
        name: {
            "speed": asdict(Spread.of(speeds[name])),
            "seconds": asdict(Spread.of([sample.seconds for sample in own])),
            "amount": statistics.median(sample.amount for sample in own),
            "samples": [asdict(sample) for sample in own],
        }
        | {key: asdict(Spread.of([sample.extra[key] for sample in own])) for key in own[0].extra}
        for name, own in samples.items()
    }
    ratios = []
    for target in comparison.targets:
        if target.first in speeds and target.second in speeds:
            pairs = zip(speeds[target.first], speeds[target.second], strict=True)
            ratio = Spread.of([one / other for one, other in pairs])
            ratios.append(asdict(target) | asdict(ratio) | {"met": target.met(ratio.median)})
            if comparison.fixed_work:
                both = zip(samples[target.first], samples[target.second], strict=True)
                ratios[-1]["of_seconds"] = asdict(Spread.of([other.seconds / one.seconds for one, other in both]))
    return {"title": comparison.title, "unit": comparison.unit, "variants": variants, "ratios": ratios}


def show(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what `run` returned as a table, and the ratios below it."""
    console = console or Console(width=max(120, Console().width))
    extra = [key for key in next(iter(result["variants"].values())) if key not in STANDARD]
    table = Table(title=result["title"], title_justify="left")
    for column in ("", f"{result['unit']}/s (range)", "seconds (range)", result["unit"], *extra):
        table.add_column(column, justify="left" if column == "" else "right")
    for name, metrics in result["variants"].items():
        spreads = [str(Spread(**metrics[key])) for key in ("speed", "seconds")]
        rest = [format_number(metrics[key]["median"]) if key in metrics else "" for key in extra]
        table.add_row(name, *spreads, format_number(metrics["amount"]), *rest)
    console.print(table)
    for ratio in result["ratios"]:
        line = f"{ratio['first']} / {ratio['second']}: {Spread(*(ratio[key] for key in ('median', 'low', 'high')))}"
        if "of_seconds" in ratio:
            line += f"; of seconds {Spread(**ratio['of_seconds'])}"
        if ratio["at_least"] is not None:
            line += f"; target {format_number(ratio['at_least'])} or more: {is_met(ratio['met'])}"
        console.print(line, highlight=False)
    console.print()


def show_table(title: str, rows: Mapping[str, Mapping[str, float]], console: Console | None = None) -> None:
    """Print numbers by row and column."""
    table = Table(title=title, title_justify="left")
    columns = list(next(iter(rows.values())))
    for column in ("", *columns):
        table.add_column(column, justify="left" if column == "" else "right")
    for name, metrics in rows.items():
        table.add_row(name, *(format_number(metrics[column]) for column in columns))
    (console or Console(width=120)).print(table)


STANDARD = ("speed", "seconds", "amount", "samples")


def is_met(met: bool) -> str:
    """Say whether a target is met."""
    return "met" if met else "MISSED"


def format_number(value: float | bool) -> str:
    """Format a number with three significant digits, a truth value as yes or no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value == 0 or 0.001 <= abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2e}"


def machine() -> dict[str, Any]:
    """Describe the machine and the versions of the libraries."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": processor(),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],  # of the last minute, other processes included
    }


def processor() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def parser(
    description: str | None,
    *,
    count: str = "--repeat",
    help: str = "number of measurements of each variant",
    threads: int = 2,
) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks share.

    Args:
        description: docstring of the benchmark; its first line is shown.
        count: option for the number of repetitions, which `settings.repeat` holds.
        help: help text of that option.
        threads: default of `--threads`.
    """
    options = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    options.add_argument(count, type=positive, default=5, dest="repeat", help=help)
    options.add_argument("--threads", type=positive, default=threads, help="number of torch threads of a process")
    options.add_argument("--output", type=Path, help="JSON file to which the results are written")
    options.add_argument("--smoke", action="store_true", help="smallest sizes, to test that the benchmark runs")
    return options


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return int(text)


def parse(options: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options, set torch's threads, and print the machine."""
    settings = options.parse_args(arguments)
    if settings.smoke:
        settings.repeat = settings.threads = 1
    torch.set_num_threads(settings.threads)
    settings.machine = machine()
    Console(width=120).print(" · ".join(f"{name} {value}" for name, value in settings.machine.items()), highlight=False)
    return settings


def finish(settings: argparse.Namespace, comparisons: Sequence[Mapping[str, Any]] = (), **more: Any) -> dict[str, Any]:
    """Write all results as JSON if there is an `--output`; return them."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in vars(settings).items()}
    results = {"machine": plain.pop("machine"), "settings": plain, "comparisons": list(comparisons)} | more
    if settings.output:
        settings.output.write_text(json.dumps(results, indent=2) + "\n")
    return results
