"""Worker processes that score texts in the background, for slow rewards without a model, such as SPICE.

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

MAX_WORKERS = 1024  # processes

_score: rewards.Score | None = None  # the only score of a worker process


class ScoreWorkers:
    """A pool of processes, each with a copy of a score; they start at the first `submit`.

    Args:
        score: a pure function that can be pickled.
        number: number of processes.

    Raises:
        ValueError: the score cannot be pickled, or `number` is less than 1.
    """

    def __init__(self, score: rewards.Score, number: int) -> None:
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MAX_WORKERS:
            raise ValueError(
                f"workers must be at least 1 process and at most {MAX_WORKERS}, got {number!r}; 0 or None scores in"
                " this one"
            )
        try:
            pickle.dumps(score)
        except Exception as error:
            raise ValueError(
                f"reward {score.name!r} cannot be sent to worker processes ({error}); define it at the top level of a"
                " module, or leave workers out"
            ) from error
        self.score, self.number = score, number
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, infos: Sequence[Info]) -> PendingScores:
        """Start to score the texts of B ending steps."""
        if self._pool is None:
            # The fork of a process with threads can deadlock; a spawned process cannot.
            context = get_context("spawn")
            self._pool = ProcessPoolExecutor(self.number, context, initializer=_set_score, initargs=(self.score,))
        bounds = np.linspace(0, len(infos), min(self.number, len(infos)) + 1).astype(int).tolist()
        parts = (columns_of(infos[begin:end]) for begin, end in itertools.pairwise(bounds))
        return PendingScores([self._pool.submit(_score_part, *part) for part in parts])

    def close(self) -> None:
        """End the processes; texts that are not scored yet are dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def __deepcopy__(self, memo: dict[int, Any]) -> ScoreWorkers:
        return self  # a copied environment uses the same processes


class PendingScores:
    """Scores that worker processes are computing."""

    def __init__(self, parts: Sequence[Future[Any]]) -> None:
        self._parts = parts

    def result(self) -> Any:
        """Wait for the scores and return them in one array.

        Raises:
            RuntimeError: a worker process died.
            Exception: an error that the score raised.
        """
        try:
            return np.concatenate([np.asarray(part.result()) for part in self._parts])
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process ended before it had scored its texts; in a script, make the environment under"
                ' `if __name__ == "__main__":`, as new processes read the script too, or leave workers out'
            ) from error

    def cancel(self) -> None:
        """Cancel the parts that have not begun."""
        for part in self._parts:
            part.cancel()


def _set_score(score: rewards.Score) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C and ends its workers
    global _score
    _score = score


def _score_part(prompts: Any, completions: Any, references: Any, extras: Any) -> Any:
    assert _score is not None, "the initializer of the pool sets the score"
    return _score(prompts, completions, references, extras)
