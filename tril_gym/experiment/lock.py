"""The lock of a run folder, `lock.json`: one process at a time writes there.

It names the host and the process, and while this lives a thread sets the file's time every few seconds. A lock is
stale, and the next process takes it over, when its process is gone from this host, or when it is of another host and
has shown no sign of life for five minutes.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tril_gym.utils.atomic_files import scratch_folder

LOCK = "lock.json"
HEARTBEAT = 20.0  # seconds between signs of life
STALE = 300.0  # seconds without one, after which a lock of another host is stale


class LockedError(ValueError):
    """Another process has the run folder."""


class RunLock:
    """The lock of a folder, held from its creation until `release`, or until the process ends.

    Args:
        folder: an existing folder.
        force: take the lock from whoever has it.

    Raises:
        LockedError: another process has it.
    """

    def __init__(self, folder: Path, *, force: bool = False) -> None:
        self.path = folder / LOCK
        self.owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _start_of(os.getpid()),
            "token": uuid.uuid4().hex,
        }
        with _exclusively(folder), scratch_folder(self.path) as scratch:
            draft = scratch / LOCK
            draft.write_text(json.dumps(self.owner) + "\n", encoding="utf-8")
            if not force:
                _check_free(self.path, now=draft.stat().st_mtime)  # by the clock of the file system
            draft.replace(self.path)
        stop = threading.Event()
        arguments = (self.path, self.owner, stop)
        self._thread = threading.Thread(target=_beat, args=arguments, name="heartbeat of a run", daemon=True)
        self._thread.start()
        self._release = weakref.finalize(self, _give_up, *arguments)

    def check(self) -> None:
        """Raise `LockedError` where another process has taken the lock, such as by --force-unlock."""
        holder = _holder(self.path)
        if holder != self.owner:
            raise LockedError(f"{self.path.parent} now belongs to {_named(holder)}, so this run writes no more to it")

    def release(self) -> None:
        """Let others have the folder; a second call does nothing."""
        self._release()
        self._thread.join()


def _check_free(path: Path, *, now: float) -> None:
    """Raise `LockedError` unless there is no lock, or a stale one."""
    holder = _holder(path)
    if holder is None:
        return
    way_out = "wait until it has ended, or use --force-unlock if you are sure that it has"
    if holder["host"] == socket.gethostname() and os.name != "nt":  # where no signal asks whether a process lives
        if _lives(holder):
            raise LockedError(f"{path.parent} is in use by {_named(holder)} on this machine; {way_out}")
        return
    age = now - path.stat().st_mtime
    if age < STALE:
        free = time.strftime("%H:%M:%S", time.localtime(time.time() + STALE - age))
        raise LockedError(
            f"{path.parent} is in use by {_named(holder)}, whose last sign of life is {max(0.0, age):.0f} s old;"
            f" without another one it is free at {free}, {STALE / 60:.0f} minutes after the last. Else {way_out}"
        )


def _holder(path: Path) -> dict[str, Any] | None:
    """Return what a lock says; None without a lock, or for one that cannot be read."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        is_lock = {"host", "pid", "started", "token"} <= holder.keys() and isinstance(holder["pid"], int)
        return holder if is_lock else None
    except (OSError, ValueError, AttributeError):
        return None


def _named(holder: Mapping[str, Any] | None) -> str:
    return "no process" if holder is None else f"process {holder['pid']} of {holder['host']}"


def _lives(holder: Mapping[str, Any]) -> bool:
    """Return whether the process of a lock of this host lives, and is not another one with its number."""
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return holder["started"] == _start_of(holder["pid"])


def _start_of(pid: int) -> str:
    """Return when a process started, in ticks since this boot; "" for one that has ended or where nothing says it."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state == "Z" else f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{fields[18]}"
    except (OSError, ValueError, IndexError):
        return ""


def _beat(path: Path, owner: Mapping[str, Any], stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT):
        if _holder(path) != owner:
            return
        with suppress(OSError):
            os.utime(path)


def _give_up(path: Path, owner: Mapping[str, Any], stop: threading.Event) -> None:
    stop.set()
    if owner["pid"] == os.getpid() and _holder(path) == owner:  # a forked child leaves its parent's lock alone
        with suppress(OSError):
            path.unlink()


@contextmanager
def _exclusively(folder: Path) -> Iterator[None]:
    """Keep other processes of this host from taking a lock in the folder inside the block, where the system can."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
