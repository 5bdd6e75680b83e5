"""The run folder: what a run is, what it measured, and where it can go on from.

    config.json  metrics.jsonl  samples.jsonl  evaluation.json  curve.png  reward/  checkpoints/iteration-000040/

Nothing is ever half-written: files are replaced by a rename, a checkpoint appears by one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tril_gym.utils.atomic_files import replace_text, write_json

KEPT = 2  # checkpoints; the last one and one to fall back on


class RunFolder:
    """One run's files."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def require_empty(self) -> None:
        """A new run needs a folder of its own.

        Raises:
            ValueError: there is something in it.
        """
        if self.path.is_file():
            raise ValueError(f"--output-dir {self.path} is a file; name a folder that is empty or does not exist")
        if self.path.is_dir() and any(self.path.iterdir()):
            raise ValueError(f"--output-dir {self.path} is not empty; add --resume to go on, or name another folder")

    def create(self) -> None:
        """Make the folder."""
        (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Take a folder back that no run has begun in."""
        shutil.rmtree(self.path)

    def write_json(self, name: str, content: Any) -> None:
        """Write or replace a JSON file."""
        write_json(self.path / name, content)

    def read_json(self, name: str) -> Any:
        """Read a JSON file.

        Raises:
            ValueError: it is missing or broken, so this is no run folder.
        """
        try:
            return json.loads((self.path / name).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{self.path} is no run folder: {name} cannot be read ({error})") from error

    def append(self, name: str, *rows: dict[str, Any]) -> None:
        """Add lines to a JSON Lines file."""
        with (self.path / name).open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The lines of a JSON Lines file; a last line that was cut off in writing does not count."""
        path = self.path / name
        if not path.is_file():
            return []
        lines = path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def truncate_after(self, iteration: int) -> None:
        """Drop the metrics and samples of iterations that no checkpoint has: they will be run again."""
        for name in ("metrics.jsonl", "samples.jsonl"):
            kept = [row for row in self.rows(name) if row["iteration"] <= iteration]
            replace_text(self.path / name, "".join(json.dumps(row) + "\n" for row in kept))

    def save_checkpoint(self, iteration: int, save: Callable[[Path], None]) -> None:
        """Let `save` write a new checkpoint in one step; older ones go."""
        save(self.path / "checkpoints" / f"iteration-{iteration:06d}")
        for old in self.checkpoints()[:-KEPT]:
            shutil.rmtree(old)

    def checkpoints(self) -> list[Path]:
        """All complete checkpoints, the newest last."""
        return sorted((self.path / "checkpoints").glob("iteration-*"))

    def last_checkpoint(self) -> Path:
        """Where to go on from.

        Raises:
            ValueError: there is none.
        """
        found = self.checkpoints()
        if not found:
            raise ValueError(f"{self.path} has no checkpoint to go on from; start the run again in an empty folder")
        return found[-1]
