"""Stop long work by a signal after the step in progress, so that its result is complete.

Ctrl-C and the signals that schedulers and preemption send are treated alike. A signal that was ignored when the process
started (`nohup`) stays ignored, and a handler that a host program has set stays its own.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if name in dir(signal))  # Windows has two of them


class Interrupted(Exception):  # noqa: N818  (not an error)
    """The run stopped after a complete iteration because a signal asked for it.

    Args:
        message: what is complete, and how to continue.
        number: the signal.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


class StoppedAtOnce(KeyboardInterrupt):
    """A signal stopped the process at once, as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopRequest:
    """Whether a signal has asked for a stop, and which."""

    number: int | None = None

    def __call__(self) -> bool:
        """Return whether a stop was asked for."""
        return self.number is not None


@contextmanager
def stop_signal(signals: Sequence[int] = SIGNALS) -> Iterator[StopRequest]:
    """Yield a request that is true after the first of some signals. The second one raises `StoppedAtOnce`."""
    request = StopRequest()

    def ask(number: int, frame: Any) -> None:
        if request():
            raise StoppedAtOnce(number)
        request.number = number

    with _handled_by(ask, signals):
        yield request


@contextmanager
def stop_at_once() -> Iterator[None]:
    """Let every signal of `SIGNALS` stop the block as Ctrl-C does, by raising `StoppedAtOnce`."""
    with _handled_by(_stop_at_once, SIGNALS):
        yield


def _stop_at_once(number: int, frame: Any) -> None:
    raise StoppedAtOnce(number)


@contextmanager
def _handled_by(handler: Callable[[int, Any], None], signals: Sequence[int]) -> Iterator[None]:
    """Handle those of some signals that nobody else handles or ignores; in another thread than the main one, none."""
    previous: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in signals:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler, _stop_at_once):
                    previous[number] = signal.signal(number, handler)
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)


def exit_code_of(stop: Interrupted | KeyboardInterrupt) -> int:
    """Return the exit code of a process that a signal stopped: 128 plus the signal's number."""
    number = stop.number if isinstance(stop, Interrupted | StoppedAtOnce) else signal.SIGINT
    return 128 + int(number)
