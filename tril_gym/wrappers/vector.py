"""Base classes of vector wrappers that forward the autoreset mode and the attributes of rows."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium import Space
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from tril_gym.utils.batched_infos import rows_with


def base_attribute(env: gym.Env | VectorEnv, name: str) -> Any:
    """Return an attribute of the unwrapped environment (`SyncVectorEnv`: of its first row), None if it is missing.

    Of an `AsyncVectorEnv`: a copy of the attribute of its first row, whose environment is in another process.
    """
    base = env.unwrapped
    if isinstance(base, AsyncVectorEnv):
        is_ours = all(base.call("has_wrapper_attr", "attribute"))  # to call a missing one would end the process
        return base.call("attribute", name)[0] if is_ours else None
    rows = getattr(base, "envs", None)  # SyncVectorEnv
    return getattr(rows[0].unwrapped if rows else base, name, None)


def wrappers_of(env: Any) -> list[Any]:
    """Return the wrappers around an environment, the outermost first; in a `SyncVectorEnv` of its first row."""
    found = []
    while isinstance(env, gym.Wrapper | VectorWrapper):
        found.append(env)
        env = env.env
    return found + wrappers_of(env.envs[0]) if hasattr(env, "envs") else found


def check_observes_tokens(env: gym.Env | VectorEnv, wrapper: str, *, allow_floats: bool = False) -> None:
    """Check that the observation of an environment is that of a text environment, (P+T,) token ids.

    Raises:
        ValueError: it is none, or another wrapper has changed its observation before.
    """
    text = env.metadata.get("text")
    if text is None:
        raise ValueError(f'{wrapper} wraps text environments, whose metadata have a "text"; {env} has none')
    space = env.single_observation_space if isinstance(env, VectorEnv) else env.observation_space
    length = text["max_prompt_length"] + text["max_new_tokens"]
    kinds = "iuf" if allow_floats else "iu"
    if not (isinstance(space, Box) and space.shape == (length,) and space.dtype.kind in kinds):
        found = type(space).__name__ if space.shape is None else f"{type(space).__name__} {space.shape} {space.dtype}"
        raise ValueError(
            f"{wrapper} reads observations of ({length},) token ids, which another wrapper has changed to {found} in"
            f" {env}; put {wrapper} inside of that wrapper, or leave one of them out"
        )


class TextVectorWrapper(VectorWrapper):
    """A vector wrapper that forwards what a text environment has."""

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """The autoreset mode of the environment."""
        mode: AutoresetMode = self.metadata["autoreset_mode"]
        return mode

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every row, as `SyncVectorEnv.call`."""
        results: tuple[Any, ...] = self.unwrapped.call(name, *args, **kwargs)  # type: ignore[attr-defined]
        return results

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute of every row, as `SyncVectorEnv.get_attr`."""
        return self.call(name)


class VectorObservation(TextVectorWrapper):
    """A vector wrapper of observations, in every autoreset mode; `final_obs` of SAME_STEP is wrapped too."""

    def __init__(self, env: VectorEnv, single_observation_space: Space) -> None:
        super().__init__(env)
        self.single_observation_space = single_observation_space
        self.observation_space = batch_space(single_observation_space, self.num_envs)

    def observe(self, observations: Any) -> Any:
        """Return n observations, or one, with the additions of this wrapper."""
        raise NotImplementedError

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and return wrapped observations."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return self.observe(observations), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step the environment and return wrapped observations."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        for row in rows_with(infos, "final_obs"):
            infos["final_obs"][row] = self.observe(infos["final_obs"][row])
        return self.observe(observations), rewards, terminated, truncated, infos
