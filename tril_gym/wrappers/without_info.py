"""A wrapper without infos, for libraries whose buffers hold only numbers of fixed shape (TorchRL, RLlib, Tianshou)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv

from tril_gym.utils.deferred_rewards import OPTION, SCORES
from tril_gym.wrappers.vector import TextVectorWrapper, wrappers_of


class WithoutInfo(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Drop all infos but those that are named. Rewards and observations stay as they are.

    Infos of text environments are strings and lists of any length. Put this outside of `TextReward` and of wrappers
    that read infos; wrappers outside of it, such as `RecordEpisodeStatistics`, may add infos of their own.

    Args:
        env: a single or a vector environment.
        keep: keys to keep, such as "finish_reason". In autoreset mode SAME_STEP they are also kept within
            "final_info", which has those of texts that end, and "final_obs" is always kept: it is the last observation
            of a text, without which clients would make one up.
    """

    def __new__(cls, env: Any = None, keep: Collection[str] = ()) -> Any:
        """Return the wrapper for a single or a vector environment; without `env` an empty one, for copy and pickle."""
        return VectorWithoutInfo(env, keep) if isinstance(env, VectorEnv) else super().__new__(cls)

    def __init__(self, env: gym.Env, keep: Collection[str] = ()) -> None:
        self.kept_keys = check_keys(keep)
        RecordConstructorArgs.__init__(self, keep=sorted(self.kept_keys))
        gym.Wrapper.__init__(self, env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset, and drop infos."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {key: value for key, value in info.items() if key in self.kept_keys}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and drop infos."""
        *results, info = self.env.step(action)
        return *results, {key: value for key, value in info.items() if key in self.kept_keys}  # type: ignore[return-value]


class VectorWithoutInfo(TextVectorWrapper):
    """`WithoutInfo` around a vector environment; what is kept keeps its mask (`_finish_reason`)."""

    def __init__(self, env: VectorEnv, keep: Collection[str] = ()) -> None:
        super().__init__(env)
        keys = check_keys(keep) | {"final_obs"}
        self.kept_keys = keys | {f"_{key}" for key in keys}

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset, and drop infos; without scores rewards cannot be paid late."""
        if options and SCORES not in self.kept_keys:
            options = {name: value for name, value in options.items() if name != OPTION}
        observations, infos = self.env.reset(seed=seed, options=options)
        return observations, self._kept(infos)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step, and drop infos."""
        *results, infos = self.env.step(actions)
        kept, ended = self._kept(infos), self._kept(infos.get("final_info", {}))
        final = {"final_info": ended, "_final_info": infos["_final_info"]} if ended else {}
        return *results, final | kept  # type: ignore[return-value]

    def _kept(self, infos: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in infos.items() if key in self.kept_keys}


def check_infos_pass(env: gym.Env | VectorEnv, wrapper: str, keys: Collection[str]) -> None:
    """Check that no `WithoutInfo` inside of another wrapper drops the infos that it reads.

    Raises:
        ValueError: one does.
    """
    for inner in wrappers_of(env):
        if isinstance(inner, WithoutInfo | VectorWithoutInfo) and (dropped := sorted(set(keys) - inner.kept_keys)):
            raise ValueError(
                f"{wrapper} reads infos that WithoutInfo drops inside of it: {', '.join(dropped)}; put WithoutInfo"
                f" outside, WithoutInfo({wrapper}(...))"
            )


def check_keys(keep: Collection[str]) -> set[str]:
    """Return the keys to keep as a set, or raise ValueError for a single string."""
    if isinstance(keep, str):
        raise ValueError(f"keep must be a list of keys, got the string {keep!r}; write keep=[{keep!r}]")
    return set(keep)
