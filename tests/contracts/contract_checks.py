"""Environments and comparisons that the contract tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
import paths
from gymnasium.vector import SyncVectorEnv, VectorEnv

import tril_gym  # noqa: F401 - registers the environments
from tril_gym.data import Example
from tril_gym.envs.text_env import TextEnv
from tril_gym.envs.text_vector_env import TextVectorEnv
from tril_gym.envs.toy import toy_config
from tril_gym.registration import make_text_env, make_text_vector_env

IDS = ["tril/Toy-v0", "tril/CommonGen-v0", "tril/IMDB-v0", "tril/TLDR-v0", "tril/Text-v0"]
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


def same(a: Any, b: Any, where: str = "") -> None:
    """Assert that two pieces of data are equal in type, keys, shape, dtype and every value."""
    assert type(a) is type(b), f"{where}: {type(a)} and {type(b)}"
    if isinstance(a, dict):
        assert a.keys() == b.keys(), f"{where}: keys {sorted(a)} and {sorted(b)}"
        for key in a:
            same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), f"{where}: lengths {len(a)} and {len(b)}"
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}[{i}]")
    elif isinstance(a, np.ndarray):
        assert a.shape == b.shape, f"{where}: shapes {a.shape} and {b.shape}"
        assert a.dtype == b.dtype, f"{where}: dtypes {a.dtype} and {b.dtype}"
        if a.dtype == object:
            for i, (x, y) in enumerate(zip(a.flat, b.flat, strict=True)):
                same(x, y, f"{where}[{i}]")
        else:
            assert np.array_equal(a, b), f"{where}: {a} and {b}"
    else:
        assert a == b, f"{where}: {a!r} and {b!r}"


def native_and_sync(env_id: str, num_envs: int, mode: str, wrapper: Any = None, **keywords: Any) -> tuple[Any, Any]:
    """Return the vector environment, and Gymnasium's over single ones with the same keywords."""

    def single() -> Any:
        env = make_text_env(env_id, **keywords)
        return env if wrapper is None else wrapper(env)

    native = make_text_vector_env(env_id, num_envs, autoreset_mode=mode, **keywords)
    sync = SyncVectorEnv([single] * num_envs, autoreset_mode=mode)
    return native if wrapper is None else wrapper(native), sync


def random_actions(rng: np.random.Generator, envs: VectorEnv, eos_prob: float) -> np.ndarray:
    """Return one random action per row, EOS with some probability."""
    text = envs.metadata["text"]
    actions = rng.integers(text["vocab_size"], size=envs.num_envs)
    actions[rng.random(envs.num_envs) < eos_prob] = text["eos_token_ids"][0]
    return actions


def same_steps(
    a: VectorEnv, b: VectorEnv, *, steps: int, seed: Any, action_seed: int = 0, eos_prob: float = 0.05
) -> int:
    """Step two vector environments with the same actions, assert equal results, and return how many texts ended."""
    rng = np.random.default_rng(action_seed)
    same(a.reset(seed=seed), b.reset(seed=seed), "reset")
    ended = 0
    for step in range(steps):
        actions = random_actions(rng, a, eos_prob)
        result = a.step(actions)
        same(result, b.step(actions), f"step {step}")
        has_ended = result[2] | result[3]
        ended += int(has_ended.sum())
        if a.metadata["autoreset_mode"].value == "Disabled" and has_ended.any():
            # Gymnasium's environment pops the mask, so each gets a dictionary of its own
            same(
                a.reset(options={"reset_mask": has_ended}), b.reset(options={"reset_mask": has_ended}), f"reset {step}"
            )
    same(rng_states(a), rng_states(b), "generators")
    return ended


def rng_states(envs: Any) -> list[Any]:
    """Return the state of every row's generator."""
    return [generator.bit_generator.state["state"]["state"] for generator in envs.unwrapped.np_random]


def bare(env_id: str, **keywords: Any) -> TextEnv:
    """Return a single environment without a reward."""
    env = make_text_env(env_id, reward=None, **keywords)
    assert isinstance(env, TextEnv)
    return env
