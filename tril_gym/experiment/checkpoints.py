"""The checkpoints of a run: `checkpoints/iteration-000040/`, each with the checksums of its files.

A checkpoint takes its name when it is complete and on the disk. On resume the newest one whose files have their
checksums is used. Other files and folders in `checkpoints/` are left alone.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tril_gym import __version__
from tril_gym.utils.atomic_files import install_folder, scratch_folder
from tril_gym.utils.cache import MANIFEST, checksums
from tril_gym.utils.versions import check_not_newer

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: the folder; it may not exist yet.
        unit: what their numbers count.
    """

    def __init__(self, folder: Path, *, unit: str) -> None:
        self.folder, self.unit = folder, unit
        self._whole: set[Path] = set()  # those whose checksums were found right

    def path(self, number: int) -> Path:
        """Return the place of the checkpoint of that number."""
        return self.folder / f"{self.unit}-{number:06d}"

    def found(self) -> list[Path]:
        """Return all checkpoints, broken ones included, by number."""
        name = re.compile(rf"{self.unit}-\d{{6,}}")
        return sorted(
            (path for path in self.folder.glob("*") if name.fullmatch(path.name) and path.is_dir()), key=number_of
        )

    def save(
        self, number: int, fill: Callable[[Path], None], *, keep: int, saved: Callable[[Path], None] | None = None
    ) -> Path:
        """Add a checkpoint, then delete all but the last ones up to it.

        Args:
            number: its number; an older one of this number is replaced.
            fill: creates the folder that it is given and writes the content. If it raises, nothing changes.
            keep: how many to keep.
            saved: called with the new checkpoint before older ones are deleted.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.path(number)
        with scratch_folder(place) as scratch:
            new = scratch / place.name
            fill(new)
            manifest = {"version": __version__, "files": checksums(new)}
            (new / MANIFEST).write_text(json.dumps(manifest, indent=0) + "\n", encoding="utf-8")
            install_folder(new, place, replaced=scratch / "replaced")
        self._whole.add(place)
        if saved is not None:
            saved(place)
        self.prune(number, keep=keep)
        return place

    def prune(self, number: int, *, keep: int) -> None:
        """Delete all checkpoints up to one but the last ones.

        Args:
            number: of that checkpoint.
            keep: how many to keep.
        """
        for old in [path for path in self.found() if number_of(path) <= number][:-keep]:
            self._remove(old)

    def _remove(self, path: Path) -> None:
        """Delete a checkpoint; of a link, the link. Its name goes first, so a half-deleted one is never found."""
        self._whole.discard(path)
        if path.is_symlink():
            path.unlink()
            return
        with scratch_folder(path) as scratch:
            path.rename(scratch / path.name)

    def newest_whole(self, *, last: int | None = None) -> Path | None:
        """Return the newest checkpoint without damage, and log those that are passed over; None where there is none.

        Args:
            last: the highest number to look at; None: any.

        Raises:
            ValueError: there are checkpoints and all are damaged, or a newer version wrote it.
        """
        damaged: list[str] = []
        for path in reversed([path for path in self.found() if last is None or number_of(path) <= last]):
            damage = self.damage(path)
            if damage is None:
                for line in damaged:
                    log.warning("%s; the one before it is used, %s", line, path.name)
                return path
            damaged.append(f"the checkpoint {path} is damaged ({damage})")
        if damaged:
            raise ValueError(
                f"{damaged[0]}, and so is each before it; restore one from a backup, or delete {self.folder} to start"
                " this run over"
            )
        return None

    def damage(self, checkpoint: Path) -> str | None:
        """Return what is wrong with a checkpoint, None for a whole one; a whole one is read once.

        Raises:
            ValueError: a newer version of this package wrote it.
        """
        damage = None if checkpoint in self._whole else damage_of(checkpoint)
        if damage is None:
            self._whole.add(checkpoint)
        return damage


def number_of(checkpoint: Path) -> int:
    """Return the number of a checkpoint, with which its name ends."""
    return int(checkpoint.name.rpartition("-")[2])


def saved_layout(checkpoint: Path) -> dict[str, Any]:
    """Return what an agent's checkpoint says of its environment; nothing in one of an old version."""
    about = json.loads((checkpoint / "agent.json").read_text(encoding="utf-8"))
    return dict(about.get("layout", {}))


def is_checkpoint_name(name: str) -> bool:
    """Return whether a word names a checkpoint of a run: last, best, or the number of an iteration."""
    return name in ("last", "best") or (name.isascii() and name.isdigit())


def damage_of(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, None for a whole one.

    Raises:
        ValueError: a newer version of this package wrote it.
    """
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        version, written = str(manifest["version"]), dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"its {MANIFEST} cannot be read"
    check_not_newer(version, str(checkpoint))
    found = checksums(checkpoint)
    if missing := sorted(written.keys() - found.keys()):
        return f"{missing[0]} is missing"
    changed = sorted(name for name in written if found[name] != written[name])
    return f"{changed[0]} is not what was written" if changed else None
