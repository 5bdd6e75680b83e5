"""The native vector environment as a `VecEnv` of Stable-Baselines3: faster than its `DummyVecEnv` over single ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from tril_gym.envs.restart import SAMPLE_EXAMPLE, restart_options
from tril_gym.utils.batched_infos import row_of, rows_with


class StableBaselinesVecEnv(VecEnv):
    """A vector environment in autoreset mode SAME_STEP for the algorithms of Stable-Baselines3.

    Args:
        envs: such as `gym.make_vec("tril/Toy-v0", num_envs=8, autoreset_mode="SameStep")`.

    Raises:
        ValueError: another autoreset mode.
    """

    def __init__(self, envs: VectorEnv) -> None:
        if not isinstance(envs, VectorEnv):
            raise TypeError(
                f"StableBaselinesVecEnv takes a vector environment, such as gym.make_vec(id, num_envs=8,"
                f' autoreset_mode="SameStep"), got {envs!r}'
            )
        mode = envs.metadata["autoreset_mode"]
        if AutoresetMode(mode) != AutoresetMode.SAME_STEP:
            raise ValueError(
                "Stable-Baselines3 begins the next text in the step that ends one; make the environment with"
                f' autoreset_mode="SameStep", got {AutoresetMode(mode).value!r}'
            )
        self.envs = envs
        self._actions: Any = None
        self._returns, self._lengths = np.zeros(envs.num_envs), np.zeros(envs.num_envs, int)
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> Any:
        """Begin all texts, with the seeds and options that were set, such as `set_options({"example": 3})`."""
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        options = _columns_of(self._options)
        observations, infos = self.envs.reset(seed=seeds, options=options)  # type: ignore[arg-type]  # a seed per row
        self.reset_infos = [row_of(infos, row) for row in range(self.num_envs)]
        self._returns[:], self._lengths[:] = 0.0, 0
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: Any) -> None:
        """Keep the actions of the next step."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, Any, Any, list[dict[str, Any]]]:
        """Step; the info of a text that ends has `terminal_observation`, and `episode` with its return and length."""
        observations, rewards, terminated, truncated, infos = self.envs.step(self._actions)
        self._returns += rewards
        self._lengths += 1
        rows: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row in rows_with(infos, "final_obs"):
            self.reset_infos[row] = row_of({k: v for k, v in infos.items() if "final" not in k}, row)
            rows[row] = dict(row_of(infos.get("final_info", {}), row)) | {
                "terminal_observation": infos["final_obs"][row],
                "TimeLimit.truncated": bool(truncated[row] and not terminated[row]),
                "episode": {"r": float(self._returns[row]), "l": int(self._lengths[row])},
            }
            self._returns[row], self._lengths[row] = 0.0, 0
        return observations, rewards.astype(np.float32), terminated | truncated, rows

    def close(self) -> None:
        """Close the environment."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of each row."""
        values = self.envs.unwrapped.call(attr_name)  # type: ignore[attr-defined]
        return [values[row] for row in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Raise: rows share their settings."""
        raise NotImplementedError(
            f"the rows of {self.envs} share their settings; make the environment with {attr_name}"
        )

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of each row, such as `action_masks`."""
        values = self.envs.unwrapped.call(method_name, *args, **kwargs)  # type: ignore[attr-defined]
        return [values[row] for row in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        """Return True for `Monitor` alone, whose `episode` the infos have; rows have no wrappers of their own."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[Any]:
        """Return an image of each row, in render mode "rgb_array"."""
        images: Iterable[Any] = self.envs.render() or ()  # type: ignore[assignment]
        return list(images)


def _columns_of(options: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the restarts of n rows as the vector environment takes them: (n,) examples, completions padded with -1."""
    if not any(options):
        return None
    examples, completions = zip(*map(restart_options, options), strict=True)
    written = [[] if tokens is None else list(tokens) for tokens in completions]
    longest = max(map(len, written))
    return {
        "example": [SAMPLE_EXAMPLE if example is None else example for example in examples],
        "completion": [tokens + [-1] * (longest - len(tokens)) for tokens in written],
    }
