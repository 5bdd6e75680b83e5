"""The best policy of a training, by its reward on held-out examples: a folder with `policy/` and `best.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tril_gym.experiment.run_folder import BEST
from tril_gym.utils.atomic_files import write_folder, write_json

if TYPE_CHECKING:
    from tril_gym.agents.actors.policy import LMPolicy

FIGURES = "best.json"


def save_best(folder: Path, policy: LMPolicy | None, figures: Mapping[str, Any]) -> None:
    """Save a policy with its figures, in place of an older one, atomically; where another process has it, None.

    Raises:
        ValueError: the folder has other contents.
    """
    from tril_gym.agents.algorithms.saved_models import save_policy

    def fill(new: Path) -> None:
        if policy is None:
            (new / "policy").mkdir()
        else:
            save_policy(policy, new)
        write_json(new / FIGURES, dict(figures))

    write_folder(folder, fill, mark=FIGURES)


def read_best(folder: Path) -> dict[str, Any] | None:
    """Return the figures of the best policy; None where there is none, or its figures cannot be read."""
    try:
        found = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
        return found if {"iteration", "reward"} <= found.keys() and (folder / "policy").is_dir() else None
    except (OSError, ValueError, AttributeError):
        return None


def best_of_run(run: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a run's best policy, and its figures.

    Raises:
        ValueError: the run kept none.
    """
    folder = run / BEST
    figures = read_best(folder)
    if figures is None:
        raise ValueError(f"{run} has no best policy; runs with --eval-every keep one")
    return folder, figures


def is_better(reward: float | None, than: Mapping[str, Any] | None) -> bool:
    """Return whether a reward is higher than that of the best policy's figures; None and NaN are lower than all."""
    if than is None:
        return True
    value, best = (-math.inf if number is None or math.isnan(number) else number for number in (reward, than["reward"]))
    return value > best
