"""RLOO: the baseline of a text is the mean reward of the other texts of its prompt.

Ahmadian et al. 2024, "Back to Basics": https://arxiv.org/abs/2402.14740
A text is one action: its log-probability is the sum of its tokens', and the KL is part of its reward.

Differs from the paper: the ratio to π_old is clipped token by token, which matters from the second step on only.
Known property: with two texts a prompt its first step is that of P3O, and half of REBEL's with η = ½.
"""

from __future__ import annotations

from tril_gym.agents.algorithms.critic_free import CriticFree
from tril_gym.agents.learners.critic_free_config import CriticFreeConfig
from tril_gym.utils.config_fields import with_defaults


@with_defaults(advantage="leave_one_out", length_norm="sum", epochs=1, kl_coef=0.05)
class RLOOConfig(CriticFreeConfig):
    """The hyperparameters of an update without a critic, with defaults of RLOO."""


class RLOO(CriticFree):
    """REINFORCE with leave-one-out baselines."""

    name = "rloo"
    config_type = RLOOConfig
