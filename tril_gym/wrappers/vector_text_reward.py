"""Reward whole texts in a vector environment: those that end in one step are scored in one call, or all at the end.

`utils/deferred_rewards.py` has the contract with the caller. n rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from tril_gym.utils.batched_infos import row_of, rows_with, with_own_numbers
from tril_gym.utils.config_fields import check_flag
from tril_gym.utils.deferred_rewards import ON_MAIN, SCORES, OnMain, is_offered
from tril_gym.wrappers.reward_term import HasTerm, Info, load_term, with_main_process_reward
from tril_gym.wrappers.score_workers import PendingScores, ScoreWorkers
from tril_gym.wrappers.vector import TextVectorWrapper

SCORED = ("prompt", "completion", "references", "extras", "finish_reason")  # what scores are given of an info


class VectorTextReward(HasTerm, TextVectorWrapper):
    """`TextReward` around a vector environment: texts that end in one step are scored in one call.

    `AsyncVectorEnv` gives the numbers of all rows the type of the first one, so that 2.5 becomes 2; where numbers of
    several kinds are among the extras, put `TextReward` inside of each of its environments.

    Args:
        env: a vector text environment.
        score: as of `TextReward`, and so are weight, name, settings and fitted.
        weight: factor of the score.
        name: the term's name.
        settings: keywords of a reward by name.
        fitted: a folder with what a reward by name was fitted to.
        defer: True: wait until every row has ended and score the whole batch in one call. That step pays, idle rows
            too; it needs autoreset mode DISABLED. None: defer if the caller of `reset` offers to wait and the score is
            slow, has workers, or is computed on the main process of several. False: never.
        workers: number of processes that score, each deferred text from the step at which it ends, while the other
            rows are still written. For scores of text that take long, such as SPICE; a score with a model of its own
            would load one in each process.
    """

    def __init__(
        self,
        env: VectorEnv,
        score: Any,
        *,
        weight: float = 1.0,
        name: str | None = None,
        settings: Mapping[str, Any] | None = None,
        fitted: str | Path | None = None,
        defer: bool | None = None,
        workers: int | None = None,
    ) -> None:
        super().__init__(env)
        self.term = load_term(env, score, weight=weight, name=name, settings=settings, fitted=fitted)
        if self.term.score.main_process:
            self.metadata = with_main_process_reward(self.metadata)
        if defer is not None and check_flag("defer", defer) and self.autoreset_mode != AutoresetMode.DISABLED:
            raise ValueError(
                'defer=True needs autoreset_mode="Disabled", where rows that have ended are idle,'
                f" got {self.autoreset_mode.value!r}"
            )
        self._defer = defer
        self._workers = ScoreWorkers(self.term.score, workers) if workers else None
        self._is_deferred = np.zeros(self.num_envs, bool)  # rows whose present text is paid with the batch
        self._is_writing = np.zeros(self.num_envs, bool)
        self._unpaid: dict[int, dict[str, Any]] = {}  # infos of ended texts whose score is deferred, by row
        self._on_main: OnMain | None = None  # how the main process scores the texts of all processes, if it does
        self._submitted: list[tuple[list[int], PendingScores]] = []  # their rows, as they were given to workers

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; decide for the rows that are reset whether their scores are deferred.

        Raises:
            ValueError: a row to reset has a deferred reward that is not paid yet.
        """
        options = options or {}
        mask = options.get("reset_mask")
        rows = set() if mask is None else set(np.flatnonzero(mask).tolist())  # the environment validates the mask
        if unpaid := sorted(rows & self._unpaid.keys()):
            raise ValueError(
                f"rows {unpaid} would be reset before their deferred reward {self.term.name!r} is paid;"
                " step until every row has ended, or make the reward with defer=False"
            )
        result = self.env.reset(seed=seed, options=options or None)
        if mask is None:  # a reset of all rows abandons their texts
            mask = np.ones(self.num_envs, bool)
            for _, scoring in self._take_unpaid()[1]:
                scoring.cancel()
        self._is_writing |= mask
        self._on_main = options.get(ON_MAIN) if self.score.main_process else None
        self._is_deferred[mask] = self._defers(options)
        return result

    def _defers(self, options: Mapping[str, Any]) -> bool:
        """Return whether the texts that begin at a reset with these options are paid with the batch."""
        if self._on_main is not None and self._defer is False:
            raise ValueError(
                f"reward {self.term.name!r} is computed by the main process for all processes once all their texts have"
                " ended, so it must be deferred; leave defer=False out"
            )
        if self.autoreset_mode != AutoresetMode.DISABLED:
            return False
        is_slow = self.score.slow or self._workers is not None or self._on_main is not None
        return is_slow and is_offered(options) if self._defer is None else self._defer

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step; pay for the texts that are finished, or keep them until the whole batch is."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        is_same_step = self.autoreset_mode == AutoresetMode.SAME_STEP
        final_infos = infos.get("final_info", {}) if is_same_step else infos
        finished = {row: self._finished(final_infos, row) for row in rows_with(final_infos, "completion")}
        self._is_writing &= np.logical_not(terminated | truncated)
        deferred = {row: info for row, info in finished.items() if self._is_deferred[row]}
        self._unpaid |= deferred
        if self._workers is not None and self._on_main is None and deferred:
            self._submitted.append((list(deferred), self._workers.submit(list(deferred.values()))))
        scores = self._scores({row: info for row, info in finished.items() if row not in deferred})
        if not self._is_writing.any():
            scores |= self._deferred_scores()
        if scores:
            rewards = np.array(rewards, dtype=np.float64)
            rewards[list(scores)] += self.term.weight * np.array(list(scores.values()))
            for row, score in scores.items():
                self._add_info(final_infos, {SCORES: {self.term.name: score}}, row)
        return observations, rewards, terminated, truncated, infos

    def _finished(self, infos: Mapping[str, Any], row: int) -> dict[str, Any]:
        """Return the info of a text that ended; extras that `SyncVectorEnv` has converted are those of its example."""
        info = row_of(infos, row)
        rows = getattr(self.unwrapped, "envs", None)  # of SyncVectorEnv
        if not rows or "example" not in info or not hasattr(rows[row].unwrapped, "shown_examples"):
            return info
        own = rows[row].unwrapped.examples[info["example"]].all_extras
        return info | {"extras": with_own_numbers(info["extras"], own)}

    def _scores(self, infos: Mapping[int, Info]) -> dict[int, float]:
        """Score texts now; return the scores by row."""
        if not infos:
            return {}
        texts = list(infos.values())
        scores = self.term(texts) if self._workers is None else self._result(self._workers.submit(texts), texts)
        return dict(zip(infos, scores.tolist(), strict=True))

    def _deferred_scores(self) -> dict[int, float]:
        """Score the texts that are not paid yet; return the scores by row. None is left, even where scoring fails."""
        unpaid, submitted = self._take_unpaid()
        if self._on_main is not None:
            texts = [{key: info[key] for key in SCORED if key in info} for info in unpaid.values()]
            scores = self._on_main(lambda of_all: [*self._scores(dict(enumerate(of_all))).values()], texts)
            return dict(zip(unpaid, scores, strict=True))
        if self._workers is None:
            return self._scores(unpaid)
        return {
            row: score
            for rows, scoring in submitted
            for row, score in zip(rows, self._result(scoring, [unpaid[row] for row in rows]).tolist(), strict=True)
        }

    def _take_unpaid(self) -> tuple[dict[int, dict[str, Any]], list[tuple[list[int], PendingScores]]]:
        unpaid, submitted = self._unpaid, self._submitted
        self._unpaid, self._submitted = {}, []
        return unpaid, submitted

    def _result(self, scoring: PendingScores, infos: Sequence[Info]) -> npt.NDArray[np.float64]:
        return self.term.checked(scoring.result, infos)

    def close(self, **kwargs: Any) -> None:
        """Close the environment, and end the workers."""
        if self._workers is not None:
            self._workers.close()
        super().close(**kwargs)
