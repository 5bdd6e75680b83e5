"""Lines that say that a program is still running, where nothing else is printed for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS = 60.0  # without output before a line is printed
_watched: list[Activity] = []  # of the blocks in progress; what any console of the process prints, they need not


class Activity:
    """What a program is doing, since when, and when it last printed something; read by another thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.started = self.printed = time.monotonic()

    def begin(self, name: str) -> None:
        """Begin something else."""
        self.name, self.started = name, time.monotonic()

    def mark_output(self) -> None:
        """Note that something was printed, also for what `heartbeat` watches."""
        for activity in (self, *_watched):
            activity.printed = time.monotonic()


@contextmanager
def heartbeat(activity: Activity, beat: Callable[[str, float], None], *, every: float = SECONDS) -> Iterator[None]:
    """Call `beat` from a thread of its own while the block runs, whenever nothing was printed for a while.

    Args:
        activity: what the block does.
        beat: gets the name of the activity, and the seconds since it began.
        every: seconds without output.
    """
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(max(0.01, activity.printed + every - time.monotonic())):
            if time.monotonic() - activity.printed >= every:
                activity.mark_output()
                beat(activity.name, time.monotonic() - activity.started)

    thread = threading.Thread(target=watch, name="heartbeat", daemon=True)
    _watched.append(activity)
    thread.start()
    try:
        yield
    finally:
        _watched.remove(activity)
        ended.set()
        thread.join()
