"""Trackers of other houses (wandb, tensorboard, …) through accelerate, which knows them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Tracker:
    """Sends an iteration's figures to a tracker; without a name it does nothing.

    Args:
        name: a tracker of accelerate: "wandb", "tensorboard", "mlflow", …; None for none.

    Raises:
        ValueError: the tracker is not installed, or not known.
    """

    def __init__(self, name: str | None) -> None:
        self.name = name
        self._accelerator: Any = None  # opened by `begin`
        if name is not None:
            from accelerate.tracking import get_available_trackers

            available = sorted(str(tracker) for tracker in get_available_trackers())
            if name not in available:
                raise ValueError(f"tracker {name!r} is not installed; installed are {', '.join(available) or 'none'}")

    def begin(self, folder: Path, config: dict[str, Any]) -> None:
        """Open the tracker's run.

        Args:
            folder: where trackers that write files put them.
            config: what the run is, shown beside its figures.
        """
        if self.name is None:
            return
        from accelerate import Accelerator

        self._accelerator = Accelerator(log_with=self.name, project_dir=folder)
        plain = {key: value for key, value in config.items() if isinstance(value, int | float | str | bool)}
        own = {"wandb": {"dir": str(folder)}} if self.name == "wandb" else {}
        self._accelerator.init_trackers("tril_gym", config=plain, init_kwargs=own)

    def log(self, iteration: int, figures: dict[str, float]) -> None:
        """Send the figures of an iteration."""
        if self._accelerator is not None:
            self._accelerator.log(figures, step=iteration)

    def close(self) -> None:
        """Finish what is still on its way."""
        if self._accelerator is not None:
            self._accelerator.end_training()
