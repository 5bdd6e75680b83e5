"""Work in a thread of its own, whose result or exception is taken later."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Starts a call in a thread, which does not keep the process alive.

    Args:
        call: its result is kept.
        name: of the thread.
    """

    def __init__(self, call: Callable[[], T], name: str) -> None:
        self.error: BaseException | None = None  # what the call raised
        self._call, self._results = call, list[T]()
        # Not `Thread.join`: in Python 3.11 an interrupted one takes the thread for ended.
        self._ended = threading.Event()
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._work,), name=name, daemon=True).start()

    def _work(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:
            self.error = error
        finally:
            self._ended.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the call has ended, at most so many seconds; return whether it has."""
        return self._ended.wait(seconds)

    def result(self) -> T:
        """Wait for the result and return it; raise what the call raised."""
        self.wait()
        if self.error is not None:
            raise self.error
        return self._results[0]
