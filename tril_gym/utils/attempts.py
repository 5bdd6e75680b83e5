"""Call what may fail for a moment, such as a service: again after an error, and only so long."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from tril_gym.utils.background import Background

log = logging.getLogger(__name__)

T = TypeVar("T")

SETTINGS = ("retries", "pause", "timeout")

# Another call would raise the same.
BUGS = (TypeError, AttributeError, NameError, ImportError, SyntaxError, AssertionError, NotImplementedError)


def check_attempts(retries: Any, pause: Any, timeout: Any) -> None:
    """Check the settings of `attempt`.

    Raises:
        ValueError: one is out of its bounds.
    """
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ValueError(f"retries must be an integer of at least 0, got {retries!r}; 0 calls once, 2 is usual")
    if isinstance(pause, bool) or not isinstance(pause, int | float) or not 0 <= pause < float("inf"):
        raise ValueError(f"pause must be a number of seconds of at least 0, got {pause!r}; 1 is usual")
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (is_number and 0 < timeout <= threading.TIMEOUT_MAX):
        raise ValueError(f"timeout must be a number of seconds above 0, or None, got {timeout!r}; 60 is usual")


def attempt(
    call: Callable[[], T],
    *,
    what: str,
    retries: int,
    pause: float,
    timeout: float | None = None,
    at_once: tuple[type[Exception], ...] = BUGS,
) -> T:
    """Return what a call returns, after further calls where it raises; the last error is raised.

    Args:
        call: the call.
        what: what is called, for messages.
        retries: further calls.
        pause: seconds before the second call; each further pause is twice as long.
        timeout: seconds that each call may take; None for any number.
        at_once: errors after which it is not called again, by default those of the code itself.

    Raises:
        TimeoutError: the last call took longer.
    """
    for number in range(retries):
        try:
            return within(timeout, call)
        except at_once:
            raise
        except Exception as error:
            seconds = pause * 2**number
            log.warning(
                "%s raised %s: %s (attempt %d of %d); it is called again in %g s",
                *(what, type(error).__name__, error, number + 1, retries + 1, seconds),
            )
            time.sleep(seconds)
    return within(timeout, call)


def within(seconds: float | None, call: Callable[[], T]) -> T:
    """Return what a call returns if that takes at most so many seconds; None for any number.

    A call that takes longer is left to itself in a thread of its own: Python cannot end it.

    Raises:
        TimeoutError: it takes longer.
    """
    if seconds is None:
        return call()
    work = Background(call, "a call with a timeout")
    if not work.wait(seconds):
        raise TimeoutError(f"no answer within {seconds:g} s")
    return work.result()
