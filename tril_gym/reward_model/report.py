"""What a run of a reward model prints: its start, each epoch, and its accuracy on held-out pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tril_gym.data.preferences import PairData
from tril_gym.reward_model.config import RewardModelConfig


def start_line(config: RewardModelConfig, pairs: PairData, *, steps: int) -> str:
    """Return what is trained on what; prompts that are in both parts are counted."""
    shared = {pair.prompt for pair in pairs.train} & {pair.prompt for pair in pairs.held_out}
    return (
        f"reward model {config.model} on {len(pairs.train)} pairs of {config.dataset}, seed {config.seed},"
        f" {steps} steps of {config.batch_size} pairs; held out: {pairs.source}"
        + (f"; {len(shared)} of their prompts are also trained on" if shared else "")
    )


def epoch_line(metrics: Mapping[str, Any], *, epochs: int | None) -> str:
    """Return the metrics of an epoch on one line."""
    return (
        f"epoch {metrics['epoch']} of {epochs}  loss {metrics['train/loss']:.3f}  accuracy"
        f" {metrics['train/accuracy']:.3f}  held out: loss {metrics['held_out/loss']:.3f}  accuracy"
        f" {metrics['held_out/accuracy']:.3f}"
    )


def result_lines(right: Mapping[str, Mapping[str, Any]], folder: Path) -> list[str]:
    """Return the accuracies on held-out pairs, and how to use the reward model.

    Args:
        right: see `tril_gym.data.preferences.agreement`.
        folder: of the model.
    """
    shorter = right["chosen_is_shorter"]["pairs"]
    descriptions = {
        "reward_model": f"reward model, on {right['reward_model']['pairs']} pairs",
        "longer_is_better": "longer completion preferred",
        "difference": "difference",
        "chosen_is_shorter": f"reward model, on the {shorter} whose chosen completion is shorter",
    }
    return [
        "held-out pairs, share right ± standard error",
        *(f"  {format_share(right[name]):15s}  {words}" for name, words in descriptions.items()),
        f"reward model: {folder} (use it with --reward preference --reward-arg preference.model={folder})",
    ]


def format_share(share: Mapping[str, Any]) -> str:
    """Return a share with its standard error as text."""
    if share["mean"] is None:
        return "none"
    return f"{share['mean']:.3f}" + ("" if share["standard_error"] is None else f" ± {share['standard_error']:.3f}")
