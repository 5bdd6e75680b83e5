"""A cache on disk for results that take seconds to compute, in the user's cache folder.

A cached folder is built elsewhere and renamed, so it is never seen half built, and it holds the checksums of its files,
so a damaged one is built again. A lock lets one process build while others wait for it; the next build removes what a
killed one left. The cache is `$TRIL_GYM_CACHE`, else `tril_gym` under `$XDG_CACHE_HOME` or `~/.cache`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tril_gym.utils.atomic_files import scratch_folder

logger = logging.getLogger(__name__)

MANIFEST = "checksums.json"
LOCKS = ".locks"  # folder of the cache


def cache_root() -> Path:
    """Return the folder of the cache, which may not exist yet."""
    if chosen := os.environ.get("TRIL_GYM_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tril_gym"


def cached_folder(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the complete, verified folder of `key`; it is built where it is missing or damaged.

    Args:
        kind: kind of content, a folder name such as "sentiment".
        key: hash of everything that determines the content.
        build: called with an empty folder, which it fills. Where it raises, nothing is left on disk.
    """
    parent = cache_root() / kind
    folder = parent / key
    assert folder.parent == parent, f"{key!r} is not a folder name"
    if is_intact(folder):
        return folder
    with ExitStack() as stack:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            is_alone = stack.enter_context(_build_lock(kind, key))
            if is_intact(folder):  # another process has built it meanwhile
                return folder
            if is_alone:
                for rest in parent.glob(f".{key}.*"):  # of a build that was killed
                    shutil.rmtree(rest, ignore_errors=True)
            scratch = stack.enter_context(scratch_folder(folder))
        except OSError as error:
            raise OSError(f"cannot write to the cache {parent}; set TRIL_GYM_CACHE to another folder") from error
        built = scratch / "built"
        built.mkdir()
        build(built)
        (built / MANIFEST).write_text(json.dumps(checksums(built), indent=0))
        _install(built, folder, scratch / "replaced")
    return folder


@contextmanager
def _build_lock(kind: str, key: str) -> Iterator[bool]:
    """Hold the lock of one cached folder; yield whether there is one, which some file systems do not have."""
    from filelock import FileLock, Timeout

    folder = cache_root() / LOCKS
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / f"{kind}-{key}.lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("another process is building %s of the cache; waiting for it", kind)
            lock.acquire()
    except NotImplementedError:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_intact(folder: Path) -> bool:
    """Return whether a cached folder has exactly the files that were built, with their contents."""
    try:
        return json.loads((folder / MANIFEST).read_text()) == checksums(folder)
    except (OSError, ValueError):  # no manifest, or a truncated one
        return False


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder except the manifest, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _install(built: Path, folder: Path, replaced: Path) -> None:
    """Rename `built` to `folder`; an intact folder of another process is kept, a damaged one is moved to `replaced`."""
    while True:
        try:
            built.rename(folder)
        except OSError:
            if is_intact(folder):
                return
            if not folder.exists():
                raise
            folder.rename(replaced)
        else:
            return
