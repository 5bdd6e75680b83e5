"""A wrapper that adds an action mask to the observation, for libraries that read it there (RLlib, TorchRL, Tianshou).

n texts, V words in the vocabulary, P prompt tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Dict, MultiBinary
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv

from tril_gym.wrappers.vector import VectorObservation


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
    """

    def __new__(cls, env: Any = None) -> Any:
        """Return the wrapper for a single or a vector environment; without `env` an empty one, for copy and pickle."""
        return VectorActionMasking(env) if isinstance(env, VectorEnv) else super().__new__(cls)

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        self.observation_space = masked_space(env.observation_space, env.metadata["text"])

    def observation(self, observation: Any) -> dict[str, Any]:
        """Return the observation with its mask."""
        return {"observation": observation, "action_mask": action_mask(observation, self.metadata["text"])}


class VectorActionMasking(VectorObservation):
    """`ActionMasking` around a vector environment."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env, masked_space(env.single_observation_space, env.metadata["text"]))

    def observe(self, observations: Any) -> dict[str, Any]:
        """Return observations with their masks, of n rows or of one."""
        return {"observation": observations, "action_mask": action_mask(observations, self.metadata["text"])}


def masked_space(space: gym.Space, text: Mapping[str, Any]) -> Dict:
    """Return the space of observations with their mask."""
    return Dict({"observation": space, "action_mask": MultiBinary(text["vocab_size"])})
