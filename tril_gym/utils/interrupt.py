"""Interrupt long work at a whole point."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(Exception):  # noqa: N818  (it is no error)
    """The user asked the run to stop, and it has stopped at a whole iteration."""


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C ask for a stop at the end of the iteration; the second stops at once."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        previous = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread: whoever started it handles signals
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, previous)
