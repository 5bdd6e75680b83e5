"""Parts of this library in the form that other training libraries take.

`StableBaselinesVecEnv` needs stable-baselines3, which is imported when it is asked for.
"""

from typing import TYPE_CHECKING

from tril_gym.bridges.trl import prompt_dataset, reward_functions, reward_weights
from tril_gym.utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from tril_gym.bridges.stable_baselines import StableBaselinesVecEnv as StableBaselinesVecEnv

__all__ = ["StableBaselinesVecEnv", "prompt_dataset", "reward_functions", "reward_weights"]
__getattr__, __dir__ = lazy_names(__name__, {"StableBaselinesVecEnv": "tril_gym.bridges.stable_baselines"})
