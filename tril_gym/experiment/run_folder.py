"""The run folder: the settings of a run, what it measured, and its checkpoints.

    config.yaml  words.json  metrics.jsonl  samples.jsonl  evaluations.jsonl  evaluation.json  curve.png  reward/
    checkpoints/iteration-000040/

Version 0.1.0 wrote config.json (the reward model's settings.json) in place of config.yaml, and no version.

Files and checkpoints are written atomically, so an interrupted run leaves none half-written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from tril_gym import __version__
from tril_gym.utils.atomic_files import replace_text, write_json, write_json_lines

CONFIG = "config.yaml"
WORDS = "words.json"
FIRST_VERSION = "0.1.0"  # wrote no version
KEPT = 2  # checkpoints: the last one and one to fall back on


class RunFolder:
    """The files of one run.

    Args:
        path: the folder.
        unit: what the numbers of its checkpoints count.
    """

    def __init__(self, path: str | Path, *, unit: str = "iteration") -> None:
        self.path, self.unit = Path(path), unit

    def require_empty(self) -> None:
        """Check that a new run may use the folder.

        Raises:
            ValueError: it is a file, or something is in it.
        """
        if self.path.is_file():
            raise ValueError(f"--output-dir {self.path} is a file; name a folder that is empty or does not exist")
        if self.path.is_dir() and any(self.path.iterdir()):
            raise ValueError(
                f"--output-dir {self.path} is not empty; add --resume to continue its run, or name another folder"
            )

    def create(self) -> None:
        """Create the folder."""
        (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Delete the folder with all that is in it."""
        shutil.rmtree(self.path)

    def is_run(self) -> bool:
        """Return whether a run wrote the folder, of this version or another."""
        return (self.path / CONFIG).is_file() or self._is_first_version()

    def _is_first_version(self) -> bool:
        """Return whether 0.1.0 wrote the folder: an agent's config.json (not that of a model), or settings.json."""
        try:
            is_agent = "algorithm" in json.loads((self.path / "config.json").read_text())
        except (OSError, ValueError):
            is_agent = False
        return not (self.path / CONFIG).is_file() and (is_agent or (self.path / "settings.json").is_file())

    def write_config(self, settings: dict[str, Any]) -> None:
        """Write the settings of the run, with the version of this package."""
        import yaml

        content = yaml.safe_dump({"version": __version__} | settings, sort_keys=False, allow_unicode=True)
        replace_text(self.path / CONFIG, content)

    def read_config(self) -> dict[str, Any]:
        """Return the settings of the run.

        Raises:
            ValueError: the folder has no settings, or another version wrote them. Versions with the same first two
                numbers continue each other's runs exactly.
        """
        import yaml

        if self._is_first_version():
            self._refuse_version(FIRST_VERSION)
        try:
            settings = yaml.safe_load((self.path / CONFIG).read_text())
            version = str(settings.pop("version"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, TypeError, KeyError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{self.path} is no run folder: {CONFIG} cannot be read ({reason})") from error
        if version.split(".")[:2] != __version__.split(".")[:2]:
            self._refuse_version(version)
        return settings  # type: ignore[no-any-return]

    def _refuse_version(self, version: str) -> None:
        way_out = f"use tril-gym {version} for it, or start a new run in another folder"
        policies = [path / "policy" for path in self.checkpoints() if (path / "policy").is_dir()]
        if policies:
            way_out += f", for example with its policy: --policy {policies[-1]}"
        raise ValueError(
            f"tril-gym {version} wrote the run in {self.path}, and {__version__} cannot resume or evaluate it;"
            f" {way_out}"
        )

    def write_json(self, name: str, content: Any) -> None:
        """Create or replace a JSON file."""
        write_json(self.path / name, content)

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file.

        Raises:
            ValueError: it is missing or broken, so this is no run folder.
        """
        try:
            return json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path} is no run folder: {name} cannot be read ({error})") from error

    def write_words(self, words: Collection[str]) -> None:
        """Write the words of the training examples, against which an evaluation counts unknown words."""
        self.write_json(WORDS, sorted(words))

    def read_words(self) -> frozenset[str] | None:
        """Return the words of the training examples; None for a run whose environment has no such examples."""
        return frozenset(self.read_json(WORDS)) if (self.path / WORDS).is_file() else None

    def append(self, name: str, *rows: dict[str, Any]) -> None:
        """Append lines to a JSON Lines file."""
        with (self.path / name).open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of a JSON Lines file, without a last line whose writing was interrupted."""
        path = self.path / name
        if not path.is_file():
            return []
        lines = path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def truncate_after(self, iteration: int) -> None:
        """Remove metrics, samples and evaluations of iterations after the checkpoint, which will be run again."""
        for name in ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl"):
            if (self.path / name).is_file():
                kept = [row for row in self.rows(name) if row["iteration"] <= iteration]
                write_json_lines(self.path / name, kept)

    def save_checkpoint(self, number: int, save: Callable[[Path], None]) -> None:
        """Have `save` write a new checkpoint atomically, then delete all but the last ones."""
        save(self.path / "checkpoints" / f"{self.unit}-{number:06d}")
        for old in self.checkpoints()[:-KEPT]:
            shutil.rmtree(old)

    def checkpoints(self) -> list[Path]:
        """Return all complete checkpoints, the newest last."""
        return sorted((self.path / "checkpoints").glob(f"{self.unit}-*"))

    def last_checkpoint(self) -> Path:
        """Return the newest checkpoint.

        Raises:
            ValueError: there is none.
        """
        found = self.checkpoints()
        if not found:
            raise ValueError(f"{self.path} has no checkpoint to continue from; start the run again in an empty folder")
        return found[-1]
