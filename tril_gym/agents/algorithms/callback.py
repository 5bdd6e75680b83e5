"""Callbacks: what runs around the iterations of a training, such as evaluations, checkpoints and trackers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from tril_gym.agents.algorithms.report import History, Report


class StopTraining(Exception):  # noqa: N818  (not an error)
    """Return or raise it in a callback to end `learn` after the iteration in progress.

    Args:
        reason: why; `History.stopped` has it.
    """


class Callback:
    """Base class of callbacks. A plain function `f(report)` is one, too: it is called as `iteration` is."""

    def start(self, agent: Any, iterations: int) -> None:
        """Begin a training.

        Args:
            agent: the agent that trains.
            iterations: iterations that `learn` was asked for.
        """

    def iteration(self, report: Report) -> Any:
        """Receive the results of an iteration; see `StopTraining`.

        Metrics that are added to `report.metrics` are seen by the callbacks that follow, and kept in the history.
        """

    def end(self, history: History) -> None:
        """End a training, also one that an exception ends. What was started last ends first."""


class FunctionCallback(Callback):
    """A function of reports as a callback."""

    def __init__(self, f: Callable[[Report], Any]) -> None:
        self.f = f

    def iteration(self, report: Report) -> Any:
        """Call the function."""
        return self.f(report)


def as_callbacks(found: Iterable[Callback | Callable[[Report], Any]]) -> list[Callback]:
    """Return a list of callbacks and functions as callbacks.

    Raises:
        TypeError: not a list, or something else in it.
    """
    if isinstance(found, Callback) or callable(found) or not isinstance(found, Sequence):
        raise TypeError(f"callbacks must be a list, such as callbacks=[f], got {found!r}")
    return [_as_callback(one) for one in found]


def _as_callback(found: Any) -> Callback:
    if isinstance(found, Callback):
        return found
    if isinstance(found, type):
        raise TypeError(f"callbacks has the class {found.__name__}; make an object of it: {found.__name__}(...)")
    if not callable(found):
        raise TypeError(f"a callback is a function f(report) or a tril_gym.agents.Callback, got {found!r}")
    return FunctionCallback(found)


def call(callbacks: Sequence[Callback], report: Report) -> str | None:
    """Give a report to each callback; return the reason of the first that stops the training, None where none does.

    Raises:
        TypeError: a callback returned a Boolean, which may mean either, or `StopTraining` without a reason.
    """
    reason: str | None = None
    for callback in callbacks:
        try:
            answer = callback.iteration(report)
        except StopTraining as stop:
            answer = stop
        if isinstance(answer, StopTraining):
            reason = reason or str(answer) or "a callback stopped it"
        elif isinstance(answer, bool) or answer is StopTraining:
            shown = answer if isinstance(answer, bool) else "the class StopTraining"
            raise TypeError(
                f"a callback returned {shown}; to stop the training, return or raise StopTraining(reason), to continue"
                " return None"
            )
    return reason


def started(agent: Any, callbacks: Sequence[Callback], iterations: int, history: History) -> ExitStack:
    """Return a context in which the callbacks have started; they end with it."""
    with ExitStack() as stack:
        for callback in callbacks:
            callback.start(agent, iterations)
            stack.callback(callback.end, history)
        return stack.pop_all()
