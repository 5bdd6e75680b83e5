"""Retries and a time limit for rewards of your own, such as those that call a service."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tril_gym.rewards.base import Extras, ReferenceLists, Score, Scores, Strings
from tril_gym.utils.attempts import attempt, check_attempts


class Retried:
    """A function that is called again if it raises; it keeps its signature and its name.

    Args:
        function: the function.
        retries: further calls after one that raised.
        pause: seconds before the second call; each further pause is twice as long.
        timeout: seconds that a call may take; None: no limit.

    Raises:
        ValueError: a setting is out of its bounds.
    """

    def __init__(
        self, function: Callable[..., Any], *, retries: int = 2, pause: float = 1.0, timeout: float | None = None
    ) -> None:
        check_attempts(retries, pause, timeout)
        functools.update_wrapper(self, function, updated=())
        self.function, self.retries, self.pause, self.timeout = function, retries, pause, timeout
        self.__name__ = str(getattr(function, "__name__", type(function).__name__))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, several times if needed."""
        return attempt(
            lambda: self.function(*args, **kwargs),
            what=f"reward {self.__name__!r}",
            retries=self.retries,
            pause=self.pause,
            timeout=self.timeout,
        )


class RetriedScore(Score):
    """A score that is called again where it raises; see `Retried`."""

    def __init__(self, score: Score, **settings: Any) -> None:
        self.score, self.name, self.slow = score, score.name, score.slow
        self.main_process = score.main_process
        self._call = Retried(score, **settings)
        self._call.__name__ = score.name

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the scores, (B,)."""
        scores: Scores = self._call(prompts, completions, references, extras)
        return scores

    def save(self, folder: Path) -> None:
        """Write what was fitted."""
        self.score.save(folder)
