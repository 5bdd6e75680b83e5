"""The run folder: the settings of a run, what it measured, and its checkpoints.

    config.yaml  words.json  metrics.jsonl  samples.jsonl  evaluations.jsonl  evaluation.json  curve.png  reward/
    checkpoints/iteration-000040/  policy (a link to that of the newest checkpoint)  lock.json (while a process runs it)

Version 0.1.0 wrote config.json (the reward model's settings.json) in place of config.yaml, and no version.

Files and checkpoints are written atomically, so an interrupted run leaves none half-written. Only lines at the end of a
JSON Lines file may be cut short; they are left out when it is read, and removed when the run is resumed.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from tril_gym import __version__
from tril_gym.experiment.checkpoints import Checkpoints, is_checkpoint_name, number_of
from tril_gym.experiment.json_lines import append_rows, read_rows, truncate_rows
from tril_gym.experiment.lock import LOCK, RunLock
from tril_gym.experiment.trust import masked
from tril_gym.utils.atomic_files import (
    check_creatable,
    flush,
    flush_tree,
    is_draft,
    remove_drafts,
    replace_link,
    replace_text,
    write_json,
)
from tril_gym.utils.suggestions import path_with_suggestion

CONFIG = "config.yaml"
WORDS = "words.json"
FIRST_VERSION = "0.1.0"  # wrote no version
KEPT = 2  # checkpoints: the last one and one to fall back on
CHECKPOINTS, REWARD, POLICY, BEST = "checkpoints", "reward", "policy", "best"
LINES = ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl")
EVALUATION = "evaluation.json"
OWN_FILES = (CONFIG, WORDS, LOCK, EVALUATION, *LINES)  # that other commands must not replace


def to_resume(folder: str | Path) -> str:
    """Return the options that continue the run of a folder, as a shell reads them."""
    return f"--output-dir {shlex.quote(str(folder))} --resume"


class RunFolder:
    """The files of one run.

    Args:
        path: the folder.
        unit: what the numbers of its checkpoints count.

    Attributes:
        origin: the folder that the user knows; another one than `path` in `copy_of_rank`.
    """

    def __init__(self, path: str | Path, *, unit: str = "iteration") -> None:
        self.path, self.unit = Path(path), unit
        self.origin = self.path
        self._checkpoints = Checkpoints(self.path / CHECKPOINTS, unit=unit)
        self._lock: RunLock | None = None
        self._existed = False  # before `create`

    def require_empty(self) -> None:
        """Check that a new run may use the folder.

        Raises:
            ValueError: it is a file, or something is in it but what a run leaves that was killed as it began.
        """
        if self.path.is_file():
            raise ValueError(f"--output-dir {self.path} is a file; name a folder that is empty or does not exist")
        check_creatable(f"--output-dir {self.path}", (self.path.absolute(), *self.path.absolute().parents))
        if self.path.is_dir() and not all(map(_is_beginning, self.path.iterdir())):
            raise ValueError(
                f"--output-dir {self.path} is not empty; add --resume to continue its run, or name another folder"
            )

    def has_begun(self) -> bool:
        """Return whether there is something to resume: settings, or files of somebody else to refuse."""
        return self.path.exists() and not (self.path.is_dir() and all(map(_is_beginning, self.path.iterdir())))

    def create(self, *, force_unlock: bool = False) -> None:
        """Create the folder and lock it; see `lock`.

        Raises:
            ValueError: the system refuses to create it, such as on a full disk; or another process has begun a
                run in it since it was found empty.
            LockedError: another process is creating it.
        """
        self._existed = self.path.exists()
        try:
            (self.path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"--output-dir {self.path} cannot be created: {error.strerror}; name another folder"
            ) from error
        self.lock(force=force_unlock)
        try:
            self.require_empty()
        except ValueError:
            self.unlock()
            raise

    def lock(self, *, force: bool = False) -> None:
        """Keep other processes from writing in the folder, and delete what a killed one left unfinished.

        Args:
            force: take the folder from the process that has it.

        Raises:
            LockedError: another process has it.
            ValueError: this one may not write there.
        """
        if not os.access(self.path, os.W_OK):
            raise ValueError(f"{self.path} is no folder that you may write to; use a copy of it, or another folder")
        self._lock = RunLock(self.path, force=force)
        remove_drafts(self.path)
        remove_drafts(self.path / CHECKPOINTS)

    def check_lock(self) -> None:
        """Raise `LockedError` if another process has taken the folder."""
        if self._lock is not None:
            self._lock.check()

    def unlock(self) -> None:
        """Let other processes write in the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def remove(self) -> None:
        """Delete what is in the folder, and the folder unless it was there before."""
        self.unlock()
        for path in self.path.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if not self._existed:
            self.path.rmdir()

    def clear_results(self) -> None:
        """Delete what a run without a checkpoint has written but its settings, so that it can start over."""
        for name in (*LINES, EVALUATION, WORDS):
            (self.path / name).unlink(missing_ok=True)
        for name in (REWARD, BEST):
            shutil.rmtree(self.path / name, ignore_errors=True)
        if (self.path / POLICY).is_symlink():
            (self.path / POLICY).unlink()
        shutil.rmtree(self.path / POLICY, ignore_errors=True)
        (self.path / CHECKPOINTS).mkdir(exist_ok=True)

    def copy_of_rank(self) -> RunFolder:
        """Return a temporary folder with the results so far, in which another process than the main one writes.

        It has no checkpoints. `remove_copy` deletes it.
        """
        copy = RunFolder(tempfile.mkdtemp(prefix="tril-gym-"), unit=self.unit)
        copy.origin = self.path
        for name in (*LINES, EVALUATION, WORDS):
            if (self.path / name).is_file():
                shutil.copyfile(self.path / name, copy.path / name)
        for name in (REWARD, BEST):
            if (self.path / name).is_dir():
                shutil.copytree(self.path / name, copy.path / name, ignore=shutil.ignore_patterns("*.safetensors"))
        return copy

    def remove_copy(self) -> None:
        """Delete a folder that `copy_of_rank` made."""
        shutil.rmtree(self.path, ignore_errors=True)

    def is_run(self) -> bool:
        """Return whether a run wrote the folder, of this version or another."""
        return (self.path / CONFIG).is_file() or self._is_first_version()

    def _is_first_version(self) -> bool:
        """Return whether 0.1.0 wrote the folder: an agent's config.json (not that of a model), or settings.json."""
        try:
            is_agent = "algorithm" in json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            is_agent = False
        return not (self.path / CONFIG).is_file() and (is_agent or (self.path / "settings.json").is_file())

    def write_config(self, settings: dict[str, Any]) -> None:
        """Write the settings of the run, secrets masked, with the version of this package."""
        replace_text(self.path / CONFIG, config_text(masked(settings)))

    def read_config(self) -> dict[str, Any]:
        """Return the settings of the run.

        Raises:
            ValueError: the folder has no settings, or another version wrote them. Versions with the same first two
                numbers continue each other's runs exactly.
        """
        import yaml

        if self._is_first_version():
            self._refuse_version(FIRST_VERSION)
        if not self.path.exists():
            raise ValueError(f"there is no run folder {path_with_suggestion(str(self.path))}")
        try:
            settings = yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8"))
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
        """Create or replace a JSON file, unless another process has taken the folder."""
        self.check_lock()
        write_json(self.path / name, content)

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file.

        Raises:
            ValueError: it is missing or broken, so this is no run folder.
        """
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path} is no run folder: {name} cannot be read ({error})") from error

    def write_words(self, words: Collection[str]) -> None:
        """Write the words of the training examples, against which an evaluation counts unknown words."""
        self.write_json(WORDS, sorted(words))

    def read_words(self) -> frozenset[str] | None:
        """Return the words of the training examples; None for a run whose environment has no such examples."""
        return frozenset(self.read_json(WORDS)) if (self.path / WORDS).is_file() else None

    def append(self, name: str, *rows: dict[str, Any]) -> None:
        """Append lines to a JSON Lines file; numbers that are not finite become null.

        Raises:
            LockedError: another process has taken the folder.
        """
        self.check_lock()
        append_rows(self.path / name, rows)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of a JSON Lines file, without lines that were not written to their end."""
        return read_rows(self.path / name, counter=self.unit)

    def truncate_after(self, number: int, names: Collection[str] = LINES) -> None:
        """Remove the lines of later iterations than the checkpoint's, and what no row can be read from, with a warning.

        Args:
            number: of the checkpoint; later iterations will be run again.
            names: the JSON Lines files.
        """
        for name in names:
            truncate_rows(self.path / name, number, counter=self.unit)

    def save_checkpoint(self, number: int, save: Callable[[Path], None], *, keep: int = KEPT) -> Path:
        """Have `save` write a new checkpoint atomically, then delete all but the last ones; return it.

        `policy` shows the policy of the new one before an old one is deleted.

        Args:
            number: the number of the checkpoint.
            save: creates the folder that it is given.
            keep: how many to keep.

        Raises:
            LockedError: another process has taken the folder.
        """
        self.check_lock()
        for name in (*LINES, EVALUATION):  # what a checkpoint follows must not be lost where it is kept
            if (self.path / name).is_file():
                flush(self.path / name)
        if (self.path / REWARD).is_dir():
            flush_tree(self.path / REWARD)
        flush(self.path)
        return self._checkpoints.save(number, save, keep=keep, saved=self.show_policy)

    def show_policy(self, checkpoint: Path) -> None:
        """Let `policy` show the policy of a checkpoint; those of reward models have none."""
        if (checkpoint / POLICY).is_dir():
            replace_link(self.path / POLICY, checkpoint / POLICY)

    def prune_checkpoints(self, number: int, *, keep: int = KEPT) -> None:
        """Delete all checkpoints up to that of a number but the last ones, as a save does that was not killed."""
        self._checkpoints.prune(number, keep=keep)

    def checkpoints(self) -> list[Path]:
        """Return all checkpoints, the newest last."""
        return self._checkpoints.found()

    def newest_checkpoint(self) -> Path | None:
        """Return the newest checkpoint without damage, with a warning for each that is damaged; None without any.

        Raises:
            ValueError: all are damaged.
        """
        return self._checkpoints.newest_whole()

    def last_checkpoint(self) -> Path:
        """Return the newest checkpoint without damage.

        Raises:
            ValueError: there is none.
        """
        found = self.newest_checkpoint()
        if found is None:
            raise ValueError(f"{self.path} has no checkpoint yet; --resume starts its run over")
        return found

    def checkpoint_of(self, which: str) -> Path:
        """Return the checkpoint of a number; the newest one for "last", and for "best", whose policy lies elsewhere.

        Raises:
            ValueError: there is none, it is damaged, or another word.
        """
        if not is_checkpoint_name(which):
            raise ValueError(f"a checkpoint is last, best, or the number of an iteration, got {which!r}")
        if not which.isdigit():
            return self.last_checkpoint()
        number = int(which)
        path = self._checkpoints.path(number)
        if path not in self.checkpoints():
            kept = ", ".join(str(number_of(found)) for found in self.checkpoints())
            raise ValueError(f"{self.path} has no checkpoint {number}; there are {kept or 'none'}")
        if damage := self._checkpoints.damage(path):
            raise ValueError(f"the checkpoint {path} is damaged ({damage}); use last, the newest whole one")
        return path


def config_text(settings: dict[str, Any]) -> str:
    """Return settings as the YAML of `config.yaml`, with the version of this package."""
    import yaml

    return yaml.safe_dump({"version": __version__} | settings, sort_keys=False, allow_unicode=True)


def _is_beginning(path: Path) -> bool:
    """Return whether a run that was killed before it wrote its settings may have left this."""
    is_empty_folder = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    return path.name == LOCK or is_draft(path) or (path.name == CHECKPOINTS and is_empty_folder)
