"""Train a reward model on preference pairs. Names are imported when first used, which takes seconds."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tril_gym.reward_model.config import RewardModelConfig as RewardModelConfig
    from tril_gym.reward_model.trainer import preference_loss as preference_loss
    from tril_gym.reward_model.training import RewardModelRun as RewardModelRun
    from tril_gym.reward_model.training import prepare_reward_model as prepare_reward_model
    from tril_gym.reward_model.training import resume_reward_model as resume_reward_model

_MODULES = {
    "RewardModelConfig": "config",
    "RewardModelRun": "training",
    "preference_loss": "trainer",
    "prepare_reward_model": "training",
    "resume_reward_model": "training",
}
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
