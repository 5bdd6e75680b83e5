"""Stop long work on Ctrl-C after the step in progress, so that its result is complete."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(Exception):  # noqa: N818  (not an error)
    """The run stopped after a complete iteration because the user asked for it."""


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True after the first Ctrl-C. The second Ctrl-C raises KeyboardInterrupt."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        previous = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread: the caller handles signals
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, previous)
