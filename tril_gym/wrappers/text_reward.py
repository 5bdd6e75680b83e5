"""Pay for the whole text at its last step: one term of a reward, for a single environment or a batch.

Terms add up by wrapping: `TextReward(TextReward(env, "cider_d", weight=0.1), "concept_coverage")`.

B texts that end in one step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv

from tril_gym import rewards
from tril_gym.rewards.base import columns_of
from tril_gym.utils.batched_infos import row_of, rows_with
from tril_gym.utils.no_copy import unwrap_no_copy, wrap_no_copy
from tril_gym.wrappers.score_workers import ScoreWorkers, Scoring
from tril_gym.wrappers.vector import TextVectorWrapper, attribute

Info = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Term:
    """A score, its weight in the reward, and the name under which infos show it."""

    name: str
    score: rewards.Score
    weight: float

    def __call__(self, infos: Sequence[Info]) -> npt.NDArray[np.float64]:
        """Score the texts of B ending steps: (B,), unweighted and finite."""
        return self.checked(lambda: self.score(*columns_of(infos)), infos)

    def checked(self, score: Callable[[], Any], infos: Sequence[Info]) -> npt.NDArray[np.float64]:
        """Return what was scored, however it was, as (B,) finite numbers; what fails says on which texts."""
        try:
            scores = np.asarray(score())
        except ImportError:
            raise  # an optional package is missing, and the message says how to get it
        except Exception as error:
            kind = ValueError if isinstance(error, ValueError) else RuntimeError
            raise kind(f"reward {self.name!r} failed on {self._shown(infos)}: {error}") from error
        if scores.shape != (len(infos),) or scores.dtype.kind not in "fiub":
            raise RuntimeError(
                f"reward {self.name!r} must give {len(infos)} numbers for {self._shown(infos)},"
                f" got {scores.dtype} of shape {scores.shape}"
            )
        scores = scores.astype(np.float64)
        if not np.isfinite(scores).all():
            row = int(np.flatnonzero(np.logical_not(np.isfinite(scores)))[0])
            raise RuntimeError(f"reward {self.name!r} gave {scores[row]} for {self._shown([infos[row]])}")
        return scores

    def __deepcopy__(self, memo: dict[int, Any]) -> Term:
        return self  # a score is pure, so a copied environment uses the same one

    def _shown(self, infos: Sequence[Info]) -> str:
        more = f" and {len(infos) - 1} other texts" if len(infos) > 1 else ""
        return f"the text {infos[0]['completion']!r}{more}"


def load_term(
    env: gym.Env | VectorEnv,
    score: Any,
    *,
    weight: float,
    name: str | None,
    settings: Mapping[str, Any] | None,
    fitted: str | Path | None,
) -> Term:
    """Return the term that a wrapper of `env` adds; a reward by name fits on the environment's train examples."""
    weight = float(weight)
    if not np.isfinite(weight):
        raise ValueError(f"the weight of a reward must be a finite number, got {weight}")
    if isinstance(score, str):
        score = rewards.load(score, train=attribute(env, "train_examples"), fitted=fitted, **(settings or {}))
    elif settings or fitted:
        raise ValueError(f"settings and fitted are for rewards by name; {score!r} is an object, so set it up before")
    score = rewards.as_score(score)
    name = name or score.name
    if name in (term.name for term in terms(env)):
        raise ValueError(f"the environment already pays a reward {name!r}; give the second one another name=")
    return Term(name, score, weight)


def terms(env: Any) -> list[Term]:
    """Return the terms that an environment's wrappers pay, the innermost first."""
    found = []
    while isinstance(env, gym.Wrapper | gym.vector.VectorWrapper):
        if isinstance(env, TextReward | VectorTextReward):
            found.append(env.term)
        env = env.env
    if hasattr(env, "envs"):  # SyncVectorEnv: every row has the same
        return terms(env.envs[0]) + found[::-1]
    return found[::-1]


class TextReward(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Add the weighted score of the whole text to the reward of its last step.

    Around a vector environment this makes a `VectorTextReward`. `info["scores"][name]` shows the score unweighted.

    Args:
        env: a text environment: its ending step's info has prompt, completion, references and extras.
        score: a reward's name, a `Score`, or a function of (prompts, completions, references, extras).
        weight: what the score is multiplied with.
        name: the term's name, by default the score's.
        settings: keywords of a reward by name.
        fitted: a folder with what a reward by name was fitted to.
        defer: see `VectorTextReward`.
        workers: see `VectorTextReward`.
    """

    def __new__(cls, env: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Return the wrapper for the kind of environment (no `env`: an empty one, for copy and pickle)."""
        if isinstance(env, VectorEnv):
            return VectorTextReward(env, *args, **kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        env: gym.Env,
        score: Any,
        *,
        weight: float = 1.0,
        name: str | None = None,
        settings: Mapping[str, Any] | None = None,
        fitted: str | Path | None = None,
        defer: bool | None = None,
        workers: int | None = None,
    ) -> None:
        if defer:
            raise ValueError(
                "defer=True waits for the rows of a vector environment; a single one has nothing to wait for"
            )
        if workers:
            raise ValueError(
                f"workers={workers} score while the other rows of a vector environment write on; a single one has none"
            )
        RecordConstructorArgs.__init__(
            self,
            score=wrap_no_copy(score),
            weight=weight,
            name=name,
            settings=wrap_no_copy(settings),
            fitted=wrap_no_copy(fitted),
            defer=defer,
            workers=workers,
        )
        gym.Wrapper.__init__(self, env)
        self.term = load_term(
            env,
            unwrap_no_copy(score),
            weight=weight,
            name=name,
            settings=unwrap_no_copy(settings),
            fitted=unwrap_no_copy(fitted),
        )
        self._shown = ""  # the score of a text that has just ended, for render()

    @property
    def score(self) -> rewards.Score:
        """The score that this wrapper pays."""
        return self.term.score

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; where the environment says that the text is finished, pay."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._shown = ""
        if "completion" in info:
            value = float(self.term([info])[0])
            info["scores"] = info.get("scores", {}) | {self.term.name: value}
            reward = reward + self.term.weight * value  # type: ignore[operator]
            self._shown = f"{self.term.name} {value:.4g}"
            if self.render_mode == "human":
                print(self._shown, flush=True)
        return observation, reward, terminated, truncated, info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; a new text has no score yet."""
        self._shown = ""
        return self.env.reset(seed=seed, options=options)

    def render(self) -> Any:
        """Return the frame; where the text is finished, with its score."""
        frame = self.env.render()
        return f"{frame} {self._shown}" if isinstance(frame, str) and self._shown else frame


class VectorTextReward(TextVectorWrapper):
    """`TextReward` around a vector environment: texts that end in one step are scored in one call.

    With `defer=True` a text's pay waits until every row has ended, and the whole batch is scored in one call: that step
    pays, rows that stand idle too. `defer=None` does so where the caller offers it, `reset(options={"defer": True})`,
    and the score runs a model. Deferring needs rows that stand idle: autoreset mode DISABLED.

    With `workers`, so many processes score: of deferred texts each from the step at which it ends, while the other rows
    write on, so that the last step has little left to wait for. For scores of text that take long, such as SPICE; a
    score with a model of its own would have one in each process.
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
        self.term = load_term(
            env,
            unwrap_no_copy(score),
            weight=weight,
            name=name,
            settings=unwrap_no_copy(settings),
            fitted=unwrap_no_copy(fitted),
        )
        if defer and self.autoreset_mode != AutoresetMode.DISABLED:
            raise ValueError(
                'defer=True needs autoreset_mode="Disabled", where rows that have ended wait,'
                f" got {self.autoreset_mode.value!r}"
            )
        self._defer = defer
        self._workers = ScoreWorkers(self.term.score, workers) if workers else None
        self._is_deferred = np.zeros(self.num_envs, bool)  # rows whose present text is paid with the batch
        self._is_writing = np.zeros(self.num_envs, bool)
        self._waiting: dict[int, dict[str, Any]] = {}  # infos of ended texts that are not paid yet, by row
        self._begun: list[tuple[list[int], Scoring]] = []  # rows of which workers score the texts already

    @property
    def score(self) -> rewards.Score:
        """The score that this wrapper pays."""
        return self.term.score

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; rows that begin anew are paid as they end, or with the batch where that is offered and taken up."""
        options = options or {}
        mask = options.get("reset_mask")
        begun = set() if mask is None else set(np.flatnonzero(mask).tolist())  # any mask: the environment judges it
        if unpaid := sorted(begun & self._waiting.keys()):
            raise ValueError(
                f"rows {unpaid} would begin anew before their deferred reward {self.term.name!r} is paid;"
                " write every row to its end first, or make the reward with defer=False"
            )
        result = self.env.reset(seed=seed, options=options or None)
        if mask is None:
            mask, self._waiting = np.ones(self.num_envs, bool), {}  # a reset of everything gives up what was begun
            for _, scoring in self._begun:
                scoring.cancel()
            self._begun = []
        self._is_writing |= mask
        is_slow = getattr(self.score, "slow", False) or self._workers is not None
        takes_up = self._defer is None and is_slow and bool(options.get("defer"))
        is_deferred = self.autoreset_mode == AutoresetMode.DISABLED and (self._defer or takes_up)
        self._is_deferred[mask] = is_deferred
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step; pay for the texts that are finished, or keep them until the batch is."""
        observations, pay, terminated, truncated, infos = self.env.step(actions)
        is_same_step = self.autoreset_mode == AutoresetMode.SAME_STEP
        ended = infos.get("final_info", {}) if is_same_step else infos
        finished = {row: row_of(ended, row) for row in rows_with(ended, "completion")}
        self._is_writing &= np.logical_not(terminated | truncated)
        deferred = {row: info for row, info in finished.items() if self._is_deferred[row]}
        due = {row: info for row, info in finished.items() if not self._is_deferred[row]}
        self._waiting |= deferred
        if self._workers is not None and deferred:
            self._begun.append((list(deferred), self._workers.submit(list(deferred.values()))))
        paid = self._scores(due)
        if not self._is_writing.any():
            paid |= self._late_scores()
        if paid:
            pay = np.array(pay, dtype=np.float64)
            pay[list(paid)] += self.term.weight * np.array(list(paid.values()))
            for row, score in paid.items():
                self._add_info(ended, {"scores": {self.term.name: score}}, row)
        return observations, pay, terminated, truncated, infos

    def _scores(self, infos: Mapping[int, Info]) -> dict[int, float]:
        """Score texts that are paid at once, by row."""
        if not infos:
            return {}
        texts = list(infos.values())
        scores = self.term(texts) if self._workers is None else self._of_workers(self._workers.submit(texts), texts)
        return dict(zip(infos, scores.tolist(), strict=True))

    def _late_scores(self) -> dict[int, float]:
        """Score the texts that wait, by row; nothing waits afterwards, also where scoring fails."""
        waiting, begun = self._waiting, self._begun
        self._waiting, self._begun = {}, []
        if self._workers is None:
            return self._scores(waiting)
        return {
            row: score
            for rows, scoring in begun
            for row, score in zip(rows, self._of_workers(scoring, [waiting[row] for row in rows]).tolist(), strict=True)
        }

    def _of_workers(self, scoring: Scoring, infos: Sequence[Info]) -> npt.NDArray[np.float64]:
        return self.term.checked(scoring.result, infos)

    def close(self, **kwargs: Any) -> None:
        """Close the environment, and let the workers end."""
        if self._workers is not None:
            self._workers.close()
        super().close(**kwargs)
