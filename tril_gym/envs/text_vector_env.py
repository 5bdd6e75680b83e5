"""A vector environment of texts: the steps of `TextEnv` as a few numpy operations for the whole batch.

n texts side by side.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from tril_gym.envs.arrays import Floats, Ids, Mask
from tril_gym.envs.base import TextEnvMixin
from tril_gym.envs.config import TextEnvConfig
from tril_gym.envs.restart import SAMPLE_EXAMPLE, read_row_restarts
from tril_gym.envs.text_batch import TextBatch, check_actions
from tril_gym.envs.text_env import METADATA, NO_RENDER_MODE, check_render_mode, rendered
from tril_gym.utils.batched_infos import batched
from tril_gym.utils.config_fields import check_flag, check_integer

MAX_ENVS = 1_000_000  # texts; more do not fit into memory
Seeds = int | Sequence[int | None] | None
NO_ROWS = np.empty(0, np.int64)
Step = tuple[Ids, Floats, Mask, Mask, dict[str, Any]]


class TextVectorEnv(TextEnvMixin, VectorEnv[Ids, Ids, npt.NDArray[Any]]):
    """n texts, to each of which a step appends one token. Equal to `SyncVectorEnv` over `TextEnv`s, step for step.

    Observation, action and reward of a row are those of `TextEnv`.

    ## Autoreset
    NEXT_STEP: the step after a row's end begins its next text. SAME_STEP: the ending step does, and its infos hold
    `final_obs` and `final_info`. DISABLED: a row that has ended reports `terminated` once and is then idle (reward 0,
    both flags False, no info, the same observation) until a reset, so that every row of a batch can be finished.

    ## Restart
    `reset(options={"example": (n,), "completion": (n, T) padded with -1})`; the example -1 draws one. With
    `"reset_mask": (n,) bool` only the rows where it is True are reset, and only their options are read.

    ## Time limit
    With `max_episode_steps` a row is `truncated` at that step after its reset, as by Gymnasium's `TimeLimit`.
    """

    metadata = METADATA

    def __init__(
        self,
        config: TextEnvConfig,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        self.config, self.num_envs = config, check_integer("num_envs", num_envs, 1, MAX_ENVS)
        self.copy, self.render_mode = check_flag("copy", copy), check_render_mode(render_mode)
        self.autoreset_mode = check_autoreset_mode(autoreset_mode)
        self.metadata = dict(type(self).metadata) | {
            "autoreset_mode": self.autoreset_mode,
            "text": config.metadata(restart="rows"),
        }
        self.single_observation_space, self.single_action_space = config.observation_space(), config.action_space()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._texts = TextBatch(config, self.num_envs)
        self._rows = np.arange(self.num_envs)
        # Generator and seed of each row; the seed alone until the first draw, since making a generator is slow.
        self._generators: list[tuple[np.random.Generator, int] | int | None] = [None] * self.num_envs
        self._has_begun = False
        self._limit: int | None = None
        if max_episode_steps is not None:
            self._limit = check_integer("max_episode_steps", max_episode_steps, 1)
            self.metadata["text"]["max_episode_steps"] = self._limit
        self._steps = np.zeros(self.num_envs, np.int64)  # since the reset of each row, counted where there is a limit

    def sizes(self) -> str:
        """Return the sizes of the environment in words."""
        return f"{self.num_envs:,} texts, {super().sizes()}, autoreset {self.autoreset_mode.value}"

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of each row."""
        return tuple(self._generator(row)[0] for row in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each row."""
        return tuple(self._generator(row)[1] for row in range(self.num_envs))

    def reset(self, *, seed: Seeds = None, options: dict[str, Any] | None = None) -> tuple[Ids, dict[str, Any]]:  # type: ignore[override]
        """Begin all texts, or those of `options["reset_mask"]`; row i gets `seed + i`, or the i-th seed of a list."""
        rows = self._rows_to_reset(options)
        seeds = self._seeds(seed)
        # All options are validated before anything changes.
        states = read_row_restarts(options, rows, self.num_envs, self.config)
        new = {row: check_seed(seed) for row in rows.tolist() if (seed := seeds[row]) is not None}
        for row, seed_of_row in new.items():
            self._generators[row] = seed_of_row
        self._begin(rows, states)
        self._has_begun = True
        return self._observations(), batched({row: self._texts.reset_info(row) for row in rows.tolist()}, self.num_envs)

    def step(self, actions: Any) -> Step:
        """Append one token to every text that is being written; the actions of other rows are not read."""
        if not self._has_begun:
            raise ResetNeeded("no text has begun: call reset() before step()")
        actions = check_actions(actions, (self.num_envs,))
        texts = self._texts
        was_writing = None if self._limit is None else texts.is_writing.copy()
        if texts.common_length is not None or np.count_nonzero(texts.is_writing) == self.num_envs:
            rewards, terminated = texts.write(None, actions)
            ready = NO_ROWS
        else:
            rewards, terminated, ready = self._step_some(actions)
        truncated = self._truncate(was_writing, terminated)
        # A common length after the step implies one before it: no row has ended, and none waits for a reset.
        infos = {} if texts.common_length is not None else self._reset_and_infos(terminated, truncated, ready)
        return self._observations(), rewards, terminated, truncated, infos

    def _truncate(self, was_writing: Mask | None, terminated: Mask) -> Mask:
        """End the rows at the limit of steps; return which are. None of them without a limit."""
        if was_writing is None:
            return np.zeros(self.num_envs, bool)
        self._steps += was_writing
        truncated: Mask = was_writing & (self._steps == self._limit)
        if truncated.any():
            self._texts.stop(np.flatnonzero(truncated & ~terminated))
        return truncated

    def _step_some(self, actions: Ids) -> tuple[Floats, Mask, Ids]:
        """Step while some rows have ended; return rewards, terminated, and the rows that this step resets."""
        rewards, terminated = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        writing = np.flatnonzero(self._texts.is_writing)
        ready = NO_ROWS
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            ready = np.flatnonzero(np.logical_not(self._texts.is_writing))
        rewards[writing], terminated[writing] = self._texts.write(writing, actions[writing])
        return rewards, terminated, ready

    def _reset_and_infos(self, terminated: Mask, truncated: Mask, ready: Ids) -> dict[str, Any]:
        """Reset rows as the autoreset mode requires; return the infos of the rows that ended or were reset."""
        ended = np.flatnonzero(terminated | truncated)
        if not (len(ready) or len(ended)):
            return {}
        ends = {row: self._texts.end_info(row) if terminated[row] else {} for row in ended.tolist()}
        if self.render_mode == "human":
            for row in ends:
                print(self._texts.frame(row), flush=True)
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            ready = ended
            ends = {
                row: {"final_obs": self._texts.observations[row].copy(), "final_info": info}
                for row, info in ends.items()
            }
        self._begin(ready, [(SAMPLE_EXAMPLE, [])] * len(ready))
        begins = {row: self._texts.reset_info(row) for row in ready.tolist()}
        return batched({row: ends.get(row, {}) | begins.get(row, {}) for row in sorted(ends | begins)}, self.num_envs)

    def _begin(self, rows: Ids, states: Sequence[tuple[int, list[int]]]) -> None:
        """Begin rows in states; where no example is given, one is drawn with the generator of the row."""
        if len(rows) == 0:
            return
        self._steps[rows] = 0
        num_examples = len(self.config.examples)
        drawn = [
            (int(self._generator(row)[0].integers(num_examples)) if example == SAMPLE_EXAMPLE else example, completion)
            for row, (example, completion) in zip(rows.tolist(), states, strict=True)
        ]
        self._texts.start(rows, drawn)

    def action_masks(self) -> Mask:
        """Return (n, V), True on the advised actions: all but EOS before `min_new_tokens`."""
        return self.config.action_masks(self._texts.lengths)

    def render(self) -> tuple[Any, ...] | None:
        """Return each row as text ("ansi") or image ("rgb_array"); in "human" mode steps print the texts that end."""
        if self.render_mode is None:
            gym.logger.warn(NO_RENDER_MODE)
            return None
        if not self._has_begun:
            raise ResetNeeded("there is no text yet: call reset() before render()")
        return tuple(rendered(self._texts.frame(row), self.render_mode) for row in range(self.num_envs))

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return the attribute or the result of the method `name` of each row, as `SyncVectorEnv.call` does."""
        per_row = {
            "np_random": lambda: self.np_random,
            "np_random_seed": lambda: self.np_random_seed,
            "action_masks": lambda: tuple(self.action_masks()),
            "render": self.render,
        }
        if name in per_row:
            rows = per_row[name](*args, **kwargs)
            return (None,) * self.num_envs if rows is None else rows
        single = {"observation_space": "single_observation_space", "action_space": "single_action_space"}.get(
            name, name
        )
        value = getattr(self, single)
        # Only methods are called: a tokenizer is callable, but the caller wants the object.
        return (value(*args, **kwargs) if inspect.ismethod(value) else value,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute of each row, as `SyncVectorEnv.get_attr` does."""
        return self.call(name)

    def _observations(self) -> Ids:
        return self._texts.observations.copy() if self.copy else self._texts.observations

    def _generator(self, row: int) -> tuple[np.random.Generator, int]:
        """Return generator and seed of a row, made from fresh entropy where no seed was given."""
        found = self._generators[row]
        if not isinstance(found, tuple):
            found = self._generators[row] = seeding.np_random(found)
        return found

    def _seeds(self, seed: Seeds) -> list[int | None]:
        """Return one seed or None per row."""
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + row for row in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"a list of seeds must have one per environment, {self.num_envs}, got {len(seed)}")
        return list(seed)

    def _rows_to_reset(self, options: dict[str, Any] | None) -> Ids:
        """Return the rows of `options["reset_mask"]`, all rows without one; the caller's dictionary is not changed."""
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return self._rows
        if not isinstance(mask, np.ndarray):
            raise TypeError(f"`options['reset_mask']` must be a numpy array, got {type(mask)}")
        if mask.shape != (self.num_envs,):
            raise ValueError(f"`options['reset_mask']` must have shape `({self.num_envs},)`, got {mask.shape}")
        if mask.dtype != np.bool_:
            raise TypeError(f"`options['reset_mask']` must have `dtype=np.bool_`, got {mask.dtype}")
        if not mask.any():
            raise ValueError(f"`options['reset_mask']` must have at least one True value, got {mask}")
        if not self._has_begun:
            raise ResetNeeded("the first reset must be of all rows: call reset() without a reset_mask")
        return np.flatnonzero(mask)


def check_seed(seed: Any) -> int:
    """Return a seed, or raise Gymnasium's error for an invalid one."""
    if not isinstance(seed, int) or seed < 0:
        seeding.np_random(seed)
    return int(seed)


def check_autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """Return the autoreset mode of an enum member or of Gymnasium's string."""
    try:
        return AutoresetMode(mode)
    except ValueError:
        known = ", ".join(repr(known.value) for known in AutoresetMode)
        raise ValueError(f"autoreset_mode must be one of {known}, got {mode!r}") from None
