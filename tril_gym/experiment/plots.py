"""The learning curve of a run as a picture: reward in training and on held-out examples, and KL."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tril_gym.experiment.verdict import floats_of
from tril_gym.utils.atomic_files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHING = 5  # iterations of the curve's moving average


def draw_curve(path: Path, **data: Any) -> None:
    """Write `curve_figure` of the same data as a PNG, atomically."""
    save_figure(curve_figure(**data), path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, or as an SVG where the file's name ends so, atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    is_svg = path.suffix == ".svg"
    replace_file(path, FigureCanvasSVG(figure).print_svg if is_svg else FigureCanvasAgg(figure).print_png)


def curve_figure(
    *,
    title: str,
    reward: str,
    rows: Sequence[Mapping[str, Any]],
    held_out: Sequence[Mapping[str, Any]],
    kl_target: float | None = None,
    shows_training: bool = True,
) -> Figure:
    """Draw the reward by iteration and, if the algorithm has it, the KL below.

    Args:
        title: above the picture.
        reward: the name of the reward, for its axis.
        rows: metrics by iteration, with "iteration", "reward/mean" and "kl"; None where a value is not finite.
        held_out: evaluations in order, each with "iteration", and "metrics" and "intervals" for each way of decoding.
        kl_target: nats per text, drawn as a line.
        shows_training: whether the texts of the training are the policy's, so that their reward says something of it.
    """
    from matplotlib.figure import Figure

    has_kl = any("kl" in row for row in rows)
    figure = Figure(figsize=(8, 7 if has_kl else 5), layout="constrained")
    panels = figure.subplots(1 + has_kl, sharex=True, squeeze=False, height_ratios=[2.2, 1][: 1 + has_kl])[:, 0]
    iterations = [row["iteration"] for row in rows]
    if shows_training:
        _draw_training(panels[0], iterations, _column(rows, "reward/mean"))
    _draw_held_out(panels[0], held_out)
    panels[0].set_ylabel(textwrap.fill(reward, 50))
    if has_kl:
        panels[1].plot(iterations, _column(rows, "kl"), color="C2", linewidth=1.5)
        panels[1].set_ylabel("KL, nats per text")
    if has_kl and kl_target is not None:
        label = f"kl_target, {kl_target:g} nats"
        panels[1].axhline(kl_target, color="C2", linestyle="--", linewidth=1, label=label)
    for panel in panels:
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("iteration")
    figure.suptitle(title)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _draw_training(panel: Any, iterations: Sequence[int], rewards: Sequence[float]) -> None:
    panel.plot(iterations, rewards, color="0.8", linewidth=1, label="training texts")
    label = f"their mean over {SMOOTHING} iterations"
    panel.plot(iterations, moving_average(rewards, SMOOTHING), color="0.45", linewidth=1.5, label=label)


def _draw_held_out(panel: Any, held_out: Sequence[Mapping[str, Any]]) -> None:
    """Draw the mean reward of each evaluation with its interval."""
    iterations = [evaluation["iteration"] for evaluation in held_out]
    for decoding, marker, color in (("greedy", "o", "C1"), ("sampled", "s", "C0")):
        means = _column([evaluation["metrics"][decoding] for evaluation in held_out], "reward/mean")
        intervals = [evaluation["intervals"][decoding].get("reward/mean") for evaluation in held_out]
        bounds = [
            (mean, mean) if interval is None or None in interval else interval
            for interval, mean in zip(intervals, means, strict=True)
        ]
        below = [max(0.0, mean - low) for mean, (low, _) in zip(means, bounds, strict=True)]
        above = [max(0.0, high - mean) for mean, (_, high) in zip(means, bounds, strict=True)]
        label = f"held-out, {decoding}, with 95 % interval"
        style = {"color": color, "marker": marker, "markersize": 5, "linewidth": 1.5, "capsize": 3}
        panel.errorbar(iterations, means, yerr=[below, above], label=label, **style)


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return floats_of(row.get(name) for row in rows)


def moving_average(values: Sequence[float], width: int) -> list[float]:
    """Return the mean of each value and the `width` − 1 before it, or as many as there are."""
    parts = [values[max(0, end - width) : end] for end in range(1, len(values) + 1)]
    return [sum(part) / len(part) for part in parts]
