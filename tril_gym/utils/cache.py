"""Things that take seconds to make are made once per machine, and kept in the user's cache folder.

A cached folder appears by one rename, so nobody ever sees half of one, and it carries the checksums of its files, so a
damaged one is made again. The cache is `$TRIL_GYM_CACHE`, else `tril_gym` under `$XDG_CACHE_HOME` or `~/.cache`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tril_gym.utils.atomic_files import scratch_folder

MANIFEST = "checksums.json"


def cache_root() -> Path:
    """Return the folder that holds everything cached; it may not exist yet."""
    if chosen := os.environ.get("TRIL_GYM_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tril_gym"


def cached_folder(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the complete, verified folder for `key`, building it where it is missing or damaged.

    Args:
        kind: what is cached, a folder name such as "sentiment".
        key: a hash of everything that the content depends on.
        build: fills the empty folder that it is given. When it raises, nothing is left behind.
    """
    shelf = cache_root() / kind
    folder = shelf / key
    assert folder.parent == shelf, f"{key!r} is no folder name"
    if is_whole(folder):
        return folder
    with ExitStack() as stack:
        try:
            shelf.mkdir(parents=True, exist_ok=True)
            scratch = stack.enter_context(scratch_folder(folder))
        except OSError as error:
            raise OSError(f"cannot write to the cache {shelf}; set TRIL_GYM_CACHE to another folder") from error
        made = scratch / "made"
        made.mkdir()
        build(made)
        (made / MANIFEST).write_text(json.dumps(checksums(made), indent=0))
        _put(made, folder, scratch / "replaced")
    return folder


def is_whole(folder: Path) -> bool:
    """Say whether a cached folder has exactly the files that it was made with."""
    try:
        return json.loads((folder / MANIFEST).read_text()) == checksums(folder)
    except (OSError, ValueError):  # no manifest, or one that is cut short
        return False


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by relative path, the manifest apart."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put(made: Path, folder: Path, replaced: Path) -> None:
    """Rename `made` to `folder`, moving a damaged one away; a whole one that another process made first stays."""
    while True:
        try:
            made.rename(folder)
        except OSError:
            if is_whole(folder):
                return
            if not folder.exists():
                raise
            folder.rename(replaced)
        else:
            return
