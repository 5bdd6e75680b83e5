"""Write files and folders atomically: readers see the old content or the new one, never a part.

What is written is flushed to the disk before it takes its name, so that this holds after a loss of power, too. A writer
that is killed leaves a draft, `.NAME.….draft`, which `remove_drafts` deletes.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DRAFT = ".draft"  # suffix of the folders that content is written in


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a new hidden folder beside `path`, and remove it after the block.

    It is on the file system of `path`, so renaming from one to the other is atomic. No two have the same name.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=DRAFT, dir=path.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def is_draft(path: Path) -> bool:
    """Return whether a path has the name of a `scratch_folder`."""
    return path.name.startswith(".") and path.name.endswith(DRAFT)


def remove_drafts(folder: Path) -> None:
    """Delete what killed writers left in a folder. No other process may be writing there."""
    for path in filter(is_draft, folder.iterdir() if folder.is_dir() else ()):
        shutil.rmtree(path, ignore_errors=True)


def check_creatable(what: str, folders: Iterable[Path]) -> None:
    """Raise `ValueError` if nothing can be created in the first of these folders that exists.

    Args:
        what: what is to be created, for the message.
        folders: the folder that it would be in, and those above.
    """
    parent = next(folder for folder in folders if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"{what} cannot be created: {parent} is no folder that you may write to; name another")


def require_replaceable(folder: Path, *, mark: str | None = None) -> None:
    """Check that a folder may be written, with `mark` as of `write_folder`.

    Raises:
        ValueError: something else exists at that path, or nothing can be written there.
    """
    check_creatable(str(folder), folder.absolute().parents)
    if folder.is_file():
        raise ValueError(f"{folder} is a file; name a folder that is empty or does not exist")
    is_of_this_kind = mark is not None and (folder / mark).is_file()
    if folder.is_dir() and any(folder.iterdir()) and not is_of_this_kind:
        raise ValueError(f"{folder} contains other files; name a folder that is empty or does not exist")


def write_folder(folder: Path, fill: Callable[[Path], None], *, mark: str | None = None) -> None:
    """Create a folder, or replace an older one of its kind.

    Args:
        folder: the folder to write.
        fill: writes the content into the empty folder that it is given. If it raises, nothing changes.
        mark: a file that every folder of this kind contains. A folder without it belongs to the user and is kept, and
            with None every folder that is not empty.

    Raises:
        ValueError: something else exists at that path.
    """
    require_replaceable(folder, mark=mark)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder) as scratch:
        new = scratch / "new"
        new.mkdir()
        fill(new)
        install_folder(new, folder, replaced=scratch / "old")


def install_folder(new: Path, folder: Path, *, replaced: Path) -> None:
    """Flush a complete folder to the disk and give it its name; what had this name is moved to `replaced`."""
    flush_tree(new)
    if folder.is_symlink():
        folder.unlink()  # the link goes, what it points at stays
    elif folder.exists():
        folder.rename(replaced)
    try:
        new.rename(folder)
    except BaseException:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        raise
    flush(folder.parent)


def replace_link(link: Path, target: Path) -> None:
    """Create a link to a folder, or replace one atomically.

    The link is relative, so that both can be moved together. A folder in its place, such as a copy that a program made
    of a link, is replaced, too. On a file system without links the folder is copied.
    """
    with scratch_folder(link) as scratch:
        draft = scratch / link.name
        try:
            draft.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
        except OSError:
            shutil.copytree(target, draft)
            flush_tree(draft)
        if link.is_dir() and not (link.is_symlink() and draft.is_symlink()):
            link.rename(scratch / "replaced")
        draft.replace(link)
        flush(link.parent)


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Create or replace a file that `write` writes to the path it is given."""
    with scratch_folder(path) as scratch:
        draft = scratch / path.name
        write(draft)
        flush(draft)
        draft.replace(path)
        flush(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Create or replace a text file."""

    def write(draft: Path) -> None:
        draft.write_text(text, encoding="utf-8")

    replace_file(path, write)


def write_json(path: Path, content: Any) -> None:
    """Create or replace a JSON file; numbers that are not finite, which JSON does not have, become null."""
    replace_text(path, json.dumps(finite_or_none(content), indent=2) + "\n")


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Create or replace a JSON Lines file; numbers that are not finite become null."""
    replace_text(path, "".join(json.dumps(finite_or_none(row)) + "\n" for row in rows))


def finite_or_none(content: Any) -> Any:
    """Return plain data with None in place of NaN and infinity."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: finite_or_none(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite_or_none(value) for value in content]
    return content


def flush(path: Path) -> None:
    """Flush a file, or the names in a folder, from the caches of the system to the disk."""
    if path.is_dir() and os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Flush a folder with all that is below it."""
    for path in (*folder.rglob("*"), folder):
        flush(path)
