"""Parts of this library in the form that other training libraries take.

`StableBaselinesVecEnv` needs stable-baselines3, which is imported when it is asked for.
"""

from typing import Any

from tril_gym.bridges.trl import prompt_dataset, reward_functions, reward_weights

__all__ = ["StableBaselinesVecEnv", "prompt_dataset", "reward_functions", "reward_weights"]


def __getattr__(name: str) -> Any:
    if name == "StableBaselinesVecEnv":
        from tril_gym.bridges.stable_baselines import StableBaselinesVecEnv

        return StableBaselinesVecEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
