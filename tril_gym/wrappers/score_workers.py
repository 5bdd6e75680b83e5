"""Processes that score texts while their caller goes on: for rewards of text that take long, such as SPICE.

B texts.
"""

from __future__ import annotations

import itertools
import pickle
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import numpy as np

from tril_gym import rewards
from tril_gym.rewards.base import columns_of

Info = Mapping[str, Any]

_score: rewards.Score | None = None  # of a worker process, which has but this one


class ScoreWorkers:
    """Some processes with a copy of a score each, which start at its first use.

    Args:
        score: must be pure, as every score is, and of a kind that can be sent to another process.
        number: of processes.

    Raises:
        ValueError: the score cannot be sent, or there would be no process.
    """

    def __init__(self, score: rewards.Score, number: int) -> None:
        if number < 1:
            raise ValueError(f"workers must be at least 1 process, got {number}; 0 or None scores in this one")
        try:
            pickle.dumps(score)
        except Exception as error:
            raise ValueError(
                f"reward {score.name!r} cannot be sent to worker processes ({error}); define it at the top level of a"
                " module, or leave workers out"
            ) from error
        self.score, self.number = score, number
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, infos: Sequence[Info]) -> Scoring:
        """Begin to score the texts of B ending steps."""
        if self._pool is None:
            # A fork of a process whose threads compute may hang; a new one starts from nothing.
            context = get_context("spawn")
            self._pool = ProcessPoolExecutor(self.number, context, initializer=_take, initargs=(self.score,))
        bounds = np.linspace(0, len(infos), min(self.number, len(infos)) + 1).astype(int).tolist()
        parts = (columns_of(infos[begin:end]) for begin, end in itertools.pairwise(bounds))
        return Scoring([self._pool.submit(_score_part, *part) for part in parts])

    def close(self) -> None:
        """Let the processes end; what is not scored yet is given up."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def __deepcopy__(self, memo: dict[int, Any]) -> ScoreWorkers:
        return self  # as its score


class Scoring:
    """Scores that are being computed."""

    def __init__(self, parts: Sequence[Future[Any]]) -> None:
        self._parts = parts

    def result(self) -> Any:
        """Wait for them: what the score has returned, part by part in one array.

        Raises:
            RuntimeError: a process died.
            Exception: what the score raised.
        """
        try:
            return np.concatenate([np.asarray(part.result()) for part in self._parts])
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process ended before it had scored its texts; in a script, make the environment under"
                ' `if __name__ == "__main__":`, as new processes read the script too, or leave workers out'
            ) from error

    def cancel(self) -> None:
        """Give up what has not begun."""
        for part in self._parts:
            part.cancel()


def _take(score: rewards.Score) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, which lets its workers end
    global _score
    _score = score


def _score_part(prompts: Any, completions: Any, references: Any, extras: Any) -> Any:
    assert _score is not None, "a worker takes its score when it starts"
    return _score(prompts, completions, references, extras)
