"""A wrapper that adds prompt and completion as text to the observation.

n texts.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.spaces import Dict
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv

from tril_gym.utils.tokenization import decode, decode_after_text
from tril_gym.wrappers.text_space import AnyText
from tril_gym.wrappers.vector import VectorObservation, base_attribute, check_observes_tokens


def with_text(observation: Any, tokenizer: Any, max_prompt_length: int) -> dict[str, Any]:
    """Return one observation as tokens and as text; the prompt is that after truncation."""
    prompt, completion = observation[:max_prompt_length], observation[max_prompt_length:]
    return {
        "tokens": observation,
        "prompt": text_of(prompt, tokenizer),
        "completion": completion_of(completion, tokenizer),
    }


def text_of(ids: Any, tokenizer: Any) -> str:
    """Return columns of an observation as text, without special tokens and ids beyond the tokenizer."""
    return decode(tokenizer, ids[ids >= 0].tolist())


def completion_of(ids: Any, tokenizer: Any) -> str:
    """Return columns of a completion as text, which continues a prompt."""
    return decode_after_text(tokenizer, ids[ids >= 0].tolist())


class TextObservation(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Make the observation `{"tokens": (P+T,) int64, "prompt": str, "completion": str}`.

    Around a vector environment the texts are tuples of n strings.
    """

    def __new__(cls, env: Any = None) -> Any:
        """Return the wrapper for a single or a vector environment; without `env` an empty one, for copy and pickle."""
        return VectorTextObservation(env) if isinstance(env, VectorEnv) else super().__new__(cls)

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        self._tokenizer = tokenizer_of(env)
        check_observes_tokens(env, "TextObservation")
        self.observation_space = text_space(env.observation_space)

    def observation(self, observation: Any) -> dict[str, Any]:
        """Return the observation with its texts."""
        return with_text(observation, self._tokenizer, self.metadata["text"]["max_prompt_length"])


class VectorTextObservation(VectorObservation):
    """`TextObservation` around a vector environment."""

    def __init__(self, env: VectorEnv) -> None:
        self._tokenizer = tokenizer_of(env)
        check_observes_tokens(env, "TextObservation")
        super().__init__(env, text_space(env.single_observation_space))

    def observe(self, observations: Any) -> dict[str, Any]:
        """Return observations with their texts, of n rows or of one."""
        max_prompt_length = self.metadata["text"]["max_prompt_length"]
        if observations.ndim == 1:
            return with_text(observations, self._tokenizer, max_prompt_length)
        rows = [with_text(row, self._tokenizer, max_prompt_length) for row in observations]
        texts = {key: tuple(row[key] for row in rows) for key in ("prompt", "completion")}
        return {"tokens": observations} | texts


def tokenizer_of(env: gym.Env | VectorEnv) -> Any:
    """Return the tokenizer of an environment, or raise ValueError where it has none."""
    tokenizer = base_attribute(env, "tokenizer")
    if tokenizer is None:
        raise ValueError(f"{env} has no tokenizer, so its tokens cannot be shown as text")
    return tokenizer


def text_space(space: gym.Space) -> Dict:
    """Return the space of observations with their texts."""
    return Dict({"tokens": space, "prompt": AnyText(), "completion": AnyText()})
