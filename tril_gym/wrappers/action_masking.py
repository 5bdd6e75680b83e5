"""A wrapper that adds an action mask to the observation, for libraries that read it there (RLlib, TorchRL, Tianshou).

n texts, V words in the vocabulary, P prompt tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Dict, MultiBinary
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv

from tril_gym.wrappers.vector import VectorObservation, check_observes_tokens


def action_mask(observations: npt.NDArray[np.int64], text: Mapping[str, Any]) -> npt.NDArray[np.int8]:
    """Return 1 on the advised actions: (…, P+T) -> (…, V). EOS is not advised in a text below the minimum length.

    Observation and `metadata["text"]` suffice, so this works for any text environment.
    """
    lengths = (observations[..., text["max_prompt_length"] :] >= 0).sum(axis=-1)
    mask = np.ones((*observations.shape[:-1], text["vocab_size"]), np.int8)
    mask[..., text["eos_token_ids"]] = (lengths >= text.get("min_new_tokens", 0))[..., None]
    return mask


class ActionMasking(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Make the observation `{"observation": (P+T,) int64, "action_mask": (V,) int8}`.

    The mask fits `env.action_space.sample(mask)`. Around a vector environment every array has n rows.

    Args:
        env: a text environment.
        key: the observation's key; RLlib's action masking reads "observations".
        mask_key: the mask's key.
        dtype: type of the mask; RLlib wants float32.
    """

    def __new__(cls, env: Any = None, **names: Any) -> Any:
        """Return the wrapper for a single or a vector environment; without `env` an empty one, for copy and pickle."""
        return VectorActionMasking(env, **names) if isinstance(env, VectorEnv) else super().__new__(cls)

    def __init__(
        self, env: gym.Env, *, key: str = "observation", mask_key: str = "action_mask", dtype: Any = np.int8
    ) -> None:
        RecordConstructorArgs.__init__(self, key=key, mask_key=mask_key, dtype=np.dtype(dtype).name)
        gym.ObservationWrapper.__init__(self, env)
        check_observes_tokens(env, "ActionMasking", allow_floats=True)
        self._masking = Masking(env.metadata["text"], key, mask_key, np.dtype(dtype))
        self.observation_space = self._masking.space(env.observation_space)

    def observation(self, observation: Any) -> dict[str, Any]:
        """Return the observation with its mask."""
        return self._masking(observation)


class VectorActionMasking(VectorObservation):
    """`ActionMasking` around a vector environment."""

    def __init__(
        self, env: VectorEnv, *, key: str = "observation", mask_key: str = "action_mask", dtype: Any = np.int8
    ) -> None:
        check_observes_tokens(env, "ActionMasking", allow_floats=True)
        self._masking = Masking(env.metadata["text"], key, mask_key, np.dtype(dtype))
        super().__init__(env, self._masking.space(env.single_observation_space))

    def observe(self, observations: Any) -> dict[str, Any]:
        """Return observations with their masks, of n rows or of one."""
        return self._masking(observations)


@dataclass(frozen=True)
class Masking:
    """Keys and type of observations with masks."""

    text: Mapping[str, Any]  # the environment's metadata
    key: str
    mask_key: str
    dtype: np.dtype

    def __post_init__(self) -> None:
        if self.key == self.mask_key:
            raise ValueError(f"key and mask_key must differ, got {self.key!r} for both")

    def __call__(self, observations: npt.NDArray[np.int64]) -> dict[str, Any]:
        """Return observations with their masks."""
        mask = action_mask(observations, self.text)
        return {self.key: observations, self.mask_key: mask.astype(self.dtype, copy=False)}

    def space(self, space: gym.Space) -> Dict:
        """Return the space of observations with their masks."""
        size = self.text["vocab_size"]
        mask = MultiBinary(size) if self.dtype == np.int8 else Box(0, 1, (size,), self.dtype.type)
        return Dict({self.key: space, self.mask_key: mask})
