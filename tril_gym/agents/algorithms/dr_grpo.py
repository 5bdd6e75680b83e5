"""Dr. GRPO: GRPO without its standard deviation and without its division by a text's length.

Liu et al. 2025, "Understanding R1-Zero-Like Training": https://arxiv.org/abs/2503.20783
The loss of a text is divided by a constant, the largest length T.

Known property: the advantage is (k − 1)/k times RLOO's.
"""

from __future__ import annotations

from tril_gym.agents.algorithms.critic_free import CriticFree
from tril_gym.agents.learners.critic_free_config import CriticFreeConfig
from tril_gym.utils.config_fields import with_defaults


@with_defaults(advantage="centred", length_norm="constant", kl_coef=0.0, epochs=1)
class DrGRPOConfig(CriticFreeConfig):
    """The hyperparameters of an update without a critic, with defaults of Dr. GRPO."""


class DrGRPO(CriticFree):
    """GRPO without bias by length and difficulty."""

    name = "dr-grpo"
    config_type = DrGRPOConfig
