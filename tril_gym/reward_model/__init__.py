"""Train a reward model on preference pairs. Names are imported when first used, which takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tril_gym.utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from tril_gym.functional.preferences import preference_loss as preference_loss
    from tril_gym.reward_model.config import RewardModelConfig as RewardModelConfig
    from tril_gym.reward_model.training import RewardModelRun as RewardModelRun
    from tril_gym.reward_model.training import prepare_reward_model as prepare_reward_model
    from tril_gym.reward_model.training import resume_reward_model as resume_reward_model

_MODULES = {
    "RewardModelConfig": "tril_gym.reward_model.config",
    "RewardModelRun": "tril_gym.reward_model.training",
    "preference_loss": "tril_gym.functional.preferences",
    "prepare_reward_model": "tril_gym.reward_model.training",
    "resume_reward_model": "tril_gym.reward_model.training",
}
__all__ = [*_MODULES]
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
