"""Trackers such as wandb and tensorboard, through accelerate."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class Tracker:
    """Send the metrics of each iteration to a tracker; do nothing without a name, or once the tracker has failed.

    Args:
        name: a tracker of accelerate: "wandb", "tensorboard", "mlflow", …; None for none.

    Raises:
        ValueError: the tracker is unknown or not installed.
    """

    def __init__(self, name: str | None) -> None:
        self.name = name
        self._accelerator: Any = None  # created by `begin`
        if name is not None:
            from accelerate.tracking import get_available_trackers

            available = sorted(str(tracker) for tracker in get_available_trackers())
            if name not in available:
                raise ValueError(f"tracker {name!r} is not installed; installed are {', '.join(available) or 'none'}")

    def begin(self, folder: Path, config: dict[str, Any]) -> None:
        """Open a run of the tracker.

        Args:
            folder: for the files of trackers that write some.
            config: the settings to record beside the metrics.
        """
        if self.name is None:
            return
        from accelerate import Accelerator

        with self._without_failure():
            accelerator = Accelerator(log_with=self.name, project_dir=folder)
            plain = {key: value for key, value in config.items() if isinstance(value, int | float | str | bool)}
            init_kwargs = {"wandb": {"dir": str(folder)}} if self.name == "wandb" else {}
            accelerator.init_trackers("tril_gym", config=plain, init_kwargs=init_kwargs)
            self._accelerator = accelerator

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        """Send the metrics of one iteration."""
        if self._accelerator is not None:
            with self._without_failure():
                self._accelerator.log(metrics, step=iteration)

    def close(self) -> None:
        """Send what is still pending and end the tracker's run; a second call does nothing."""
        accelerator, self._accelerator = self._accelerator, None
        if accelerator is not None:
            with self._without_failure():
                accelerator.end_training()

    @contextmanager
    def _without_failure(self) -> Iterator[None]:
        """Warn where the tracker fails, and send nothing more to it: the run folder has all metrics."""
        try:
            yield
        except Exception as error:
            self._accelerator = None
            log.warning(
                "the tracker %s failed (%s: %s); the run continues without it, and metrics.jsonl has all metrics",
                self.name,
                type(error).__name__,
                error,
            )
