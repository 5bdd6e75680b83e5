"""REINFORCE++: one text a prompt, advantages whitened over the batch, the KL paid token by token.

Hu 2025: https://arxiv.org/abs/2501.03262
The advantage of a token is the sum of its own and all later rewards, whose KL terms differ from token to token.

Known property: the baseline is the same for all prompts, so where all texts of a prompt are rewarded below the batch's
mean, the best of them is made less probable too.
"""

from __future__ import annotations

from tril_gym.agents.algorithms.critic_free import CriticFree
from tril_gym.agents.learners.critic_free_config import CriticFreeConfig
from tril_gym.utils.config_fields import with_defaults


@with_defaults(advantage="whitened", texts_per_prompt=1, kl_coef=0.01, epochs=1)
class ReinforcePlusPlusConfig(CriticFreeConfig):
    """The hyperparameters of an update without a critic, with defaults of REINFORCE++."""


class ReinforcePlusPlus(CriticFree):
    """REINFORCE with a token KL and whitened advantages."""

    name = "reinforce-pp"
    config_type = ReinforcePlusPlusConfig
