"""Random steps of vector environments, and whether two environments return the same.

n texts side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from tril_gym.testing.conformance import require_same

EOS_PROB = 0.2  # of random actions, so that rows end at different steps


def random_actions(
    rng: np.random.Generator, envs: VectorEnv[Any, Any, Any], eos_prob: float = EOS_PROB
) -> npt.NDArray[np.int64]:
    """Return one random action per row, (n,), EOS with some probability."""
    text = envs.metadata["text"]
    actions = rng.integers(text["vocab_size"], size=envs.num_envs)
    actions[rng.random(envs.num_envs) < eos_prob] = text["eos_token_ids"][0]
    return actions


def equal_steps(
    one: VectorEnv[Any, Any, Any],
    other: VectorEnv[Any, Any, Any],
    *,
    rule: str = "two vector environments are equal",
    steps: int,
    seed: Any,
    action_seed: int = 0,
    eos_prob: float = EOS_PROB,
    tolerance: float = 0.0,
) -> int:
    """Step two vector environments with the same actions; return how many texts ended.

    Raises:
        ConformanceError: observations, rewards, flags or infos differ, or what they draw afterwards.
    """

    def same(a: Any, b: Any, where: str) -> None:
        require_same(a, b, f"{rule}, {where}", tolerance=tolerance)

    rng = np.random.default_rng(action_seed)
    same(one.reset(seed=seed), other.reset(seed=seed), f"at reset(seed={seed})")
    ended = 0
    for step in range(steps):
        actions = random_actions(rng, one, eos_prob)
        result = one.step(actions)
        same(result, other.step(actions), f"at step {step} after reset(seed={seed})")
        has_ended = result[2] | result[3]
        ended += int(has_ended.sum())
        if mode_of(one) == AutoresetMode.DISABLED and has_ended.any():
            # Gymnasium's own environment removes the mask, so that each gets a dictionary of its own
            fresh, again = ({"reset_mask": has_ended.copy()} for _ in range(2))
            same(one.reset(options=fresh), other.reset(options=again), f"at the reset of rows after step {step}")
    same(one.reset(), other.reset(), "at the last reset, without a seed")
    return ended


def mode_of(envs: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """Return the autoreset mode that the metadata states."""
    return AutoresetMode(envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
