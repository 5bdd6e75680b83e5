"""The learning curve of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SMOOTHING = 5  # iterations of the curve's moving average


def draw_curve(
    path: Path, rows: Sequence[Mapping[str, Any]], before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    """Write a PNG with the mean reward by iteration, and of the held-out examples before and after training."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    iterations = [row["iteration"] for row in rows]
    rewards = [row["reward/mean"] for row in rows]
    axes.plot(iterations, rewards, color="0.75", linewidth=1, label="collected texts")
    label = f"moving average over {SMOOTHING} iterations"
    axes.plot(iterations, moving_average(rewards, SMOOTHING), color="C0", linewidth=2, label=label)
    ends = [0, iterations[-1] if iterations else 0]
    for name, marker, fill in (("greedy", "o", "full"), ("sampled", "s", "none")):
        held_out = [part["metrics"][name]["reward/mean"] for part in (before, after)]
        axes.plot(ends, held_out, marker, color="C1", label=f"held-out, {name}", fillstyle=fill)
    axes.set_xlabel("iteration")
    axes.set_ylabel("mean reward of a text")
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(path)


def moving_average(values: Sequence[float], width: int) -> list[float]:
    """Return the mean of each value and the `width` − 1 before it, or as many as there are."""
    parts = [values[max(0, end - width) : end] for end in range(1, len(values) + 1)]
    return [sum(part) / len(part) for part in parts]
