"""GRPO: rewards standardised within the group, a clip per token, the KL as a term of the loss.

Shao et al. 2024, "DeepSeekMath", section 4.1: https://arxiv.org/abs/2402.03300

Known properties, which Dr. GRPO removes: groups of nearly equal rewards weigh as much as others, and tokens of long
texts less than those of short ones.
"""

from __future__ import annotations

from tril_gym.agents.algorithms.critic_free import CriticFree
from tril_gym.agents.learners.critic_free_config import CriticFreeConfig
from tril_gym.utils.config_fields import with_defaults


@with_defaults(advantage="standardised", length_norm="text", kl_in="loss", kl_coef=0.04, epochs=1)
class GRPOConfig(CriticFreeConfig):
    """The hyperparameters of an update without a critic, with defaults of GRPO."""


class GRPO(CriticFree):
    """Group-relative policy optimization."""

    name = "grpo"
    config_type = GRPOConfig
