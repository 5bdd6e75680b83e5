"""CISPO: the ratio is a weight of the gradient; the weight is clipped, so that every token keeps a gradient.

MiniMax 2025, section 3.1: https://arxiv.org/abs/2506.13585

Known property: no clip stops the gradient of a token, so many passes over a batch move the policy far.
"""

from __future__ import annotations

from tril_gym.agents.algorithms.critic_free import CriticFree
from tril_gym.agents.learners.critic_free_config import CriticFreeConfig
from tril_gym.utils.config_fields import with_defaults


@with_defaults(advantage="standardised", ratio="weight", clip_range_high=0.28, kl_coef=0.0)
class CISPOConfig(CriticFreeConfig):
    """The hyperparameters of an update without a critic, with defaults of CISPO."""


class CISPO(CriticFree):
    """Policy gradient with clipped importance weights."""

    name = "cispo"
    config_type = CISPOConfig
