"""Write files and folders atomically: readers see the old content or the new one, never a part."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a new hidden folder beside `path`, and remove it after the block.

    It is on the file system of `path`, so renaming from one to the other is atomic.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_folder(folder: Path, fill: Callable[[Path], None], *, mark: str) -> None:
    """Create a folder, or replace an older one of its kind.

    Args:
        folder: the folder to write.
        fill: writes the content into the empty folder that it is given. If it raises, nothing changes.
        mark: a file that every folder of this kind contains. A folder without it belongs to the user and is kept.

    Raises:
        ValueError: something else exists at that path.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file()):
        raise ValueError(f"{folder} contains other files; name a folder that is empty or does not exist")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder) as scratch:
        new = scratch / "new"
        new.mkdir()
        fill(new)
        if folder.exists():
            folder.rename(scratch / "old")
        new.rename(folder)


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Create or replace a file that `write` writes to the path it is given."""
    with scratch_folder(path) as scratch:
        write(scratch / path.name)
        (scratch / path.name).replace(path)


def replace_text(path: Path, text: str) -> None:
    """Create or replace a text file."""

    def write(draft: Path) -> None:
        draft.write_text(text)

    replace_file(path, write)


def write_json(path: Path, content: Any) -> None:
    """Create or replace a JSON file."""
    replace_text(path, json.dumps(content, indent=2) + "\n")


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Create or replace a JSON Lines file."""
    replace_text(path, "".join(json.dumps(row) + "\n" for row in rows))
