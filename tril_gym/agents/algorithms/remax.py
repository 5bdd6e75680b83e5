"""ReMax: the baseline of a text is the reward of the policy's greedy text for the same prompt.

Li et al. 2023: https://arxiv.org/abs/2310.10505
The environment must be able to begin chosen examples, for the greedy texts.

Known property: the baseline, which must not be discounted (gamma 1), does not depend on the text, so the gradient
stays unbiased, at one more text a prompt.
Differs from the paper: the ratio to π_old is clipped, which matters from the second step on a batch only.
"""

from __future__ import annotations

from tril_gym.agents.algorithms.critic_free import CriticFree
from tril_gym.agents.learners.critic_free_config import CriticFreeConfig
from tril_gym.utils.config_fields import with_defaults


@with_defaults(advantage="to_go", texts_per_prompt=1, subtract_greedy=True, length_norm="sum", kl_coef=0.01, epochs=1)
class ReMaxConfig(CriticFreeConfig):
    """The hyperparameters of an update without a critic, with defaults of ReMax."""


class ReMax(CriticFree):
    """REINFORCE with a greedy text as baseline."""

    name = "remax"
    config_type = ReMaxConfig
