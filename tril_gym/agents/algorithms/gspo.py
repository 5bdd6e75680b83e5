"""GSPO: the ratio that is clipped is one of the whole text, the geometric mean of its tokens'.

Zheng et al. 2025: https://arxiv.org/abs/2507.18071

Known property: the ratio of a text stays closer to 1 than that of a token, so the clip is about a thousandth of PPO's.
"""

from __future__ import annotations

from tril_gym.agents.algorithms.critic_free import CriticFree
from tril_gym.agents.learners.critic_free_config import CriticFreeConfig
from tril_gym.utils.config_fields import with_defaults


@with_defaults(advantage="standardised", ratio="text", clip_range=3e-4, clip_range_high=4e-4, kl_coef=0.0)
class GSPOConfig(CriticFreeConfig):
    """The hyperparameters of an update without a critic, with defaults of GSPO."""


class GSPO(CriticFree):
    """Group sequence policy optimization."""

    name = "gspo"
    config_type = GSPOConfig
