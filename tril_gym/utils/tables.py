"""What a person sees of the numbers of a run: a line for each iteration, and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

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

# Metrics that `comparison_table` leaves out: they are in its title, or follow from the intervals.
NOT_COMPARED = ("examples", "reward/stderr")


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
