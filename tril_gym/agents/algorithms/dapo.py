"""DAPO: GRPO with a higher clip above 1, a mean over all tokens, and no groups without signal.

Yu et al. 2025: https://arxiv.org/abs/2503.14476

Differs from the paper: groups without signal are left out, not replaced by others; the reward of long texts is the
environment's, which a reward term can shape.
Known property: the mean is over all tokens of a minibatch, so long texts weigh more than short ones.
"""

from __future__ import annotations

from tril_gym.agents.algorithms.critic_free import CriticFree
from tril_gym.agents.learners.critic_free_config import CriticFreeConfig
from tril_gym.utils.config_fields import with_defaults


@with_defaults(advantage="standardised", clip_range_high=0.28, drop_groups=True, kl_coef=0.0)
class DAPOConfig(CriticFreeConfig):
    """The hyperparameters of an update without a critic, with defaults of DAPO."""


class DAPO(CriticFree):
    """Decoupled clip and dynamic sampling policy optimization."""

    name = "dapo"
    config_type = DAPOConfig
