"""Environments and comparisons that the contract tests share."""

from __future__ import annotations

from typing import Any

import paths
from gymnasium.vector import SyncVectorEnv

import tril_gym  # noqa: F401 - registers the environments
from tril_gym.data import Example
from tril_gym.envs.text_env import TextEnv
from tril_gym.envs.text_vector_env import TextVectorEnv
from tril_gym.envs.toy import toy_config
from tril_gym.registration import make_text_env, make_text_vector_env
from tril_gym.testing.conformance import require_same

IDS = ["tril/Toy-v0", "tril/CommonGen-v0", "tril/IMDB-v0", "tril/TLDR-v0", "tril/HH-v0", "tril/Text-v0"]
# Keywords under which an environment needs no model: Toy keeps its own reward.
CHEAP = {env_id: {} if env_id == "tril/Toy-v0" else {"reward": "rouge_l"} for env_id in IDS}

# Exists beside the repository on some machines: three data sets in the folders commongen/, imdb/ and tldr/.
REAL_DATA = paths.DATA

MODES = ["NextStep", "SameStep", "Disabled"]
EXAMPLES = [Example("w2 w3", references=["w4"], label=1), Example("w5", references=["w6", "w7"])]  # in words of Toy
TOKEN, EOS = 5, 1  # of Toy


def toy_envs(mode: str = "Disabled", n: int = 3, **keywords: Any) -> TextVectorEnv:
    """Return the native vector environment of Toy, by default with three rows in mode DISABLED."""
    return TextVectorEnv(toy_config(**keywords), n, autoreset_mode=mode)


def same(a: Any, b: Any) -> None:
    """Assert that two pieces of data are equal in type, keys, shape, dtype and every value."""
    require_same(a, b, "both are equal")


def native_and_sync(env_id: str, num_envs: int, mode: str, wrapper: Any = None, **keywords: Any) -> tuple[Any, Any]:
    """Return the vector environment, and Gymnasium's over single ones with the same keywords."""

    def single() -> Any:
        env = make_text_env(env_id, **keywords)
        return env if wrapper is None else wrapper(env)

    native = make_text_vector_env(env_id, num_envs, autoreset_mode=mode, **keywords)
    sync = SyncVectorEnv([single] * num_envs, autoreset_mode=mode)
    return native if wrapper is None else wrapper(native), sync


def rng_states(envs: Any) -> list[Any]:
    """Return the state of every row's generator."""
    return [generator.bit_generator.state["state"]["state"] for generator in envs.unwrapped.np_random]


def bare(env_id: str, **keywords: Any) -> TextEnv:
    """Return a single environment without a reward."""
    env = make_text_env(env_id, reward=None, **keywords)
    assert isinstance(env, TextEnv)
    return env
