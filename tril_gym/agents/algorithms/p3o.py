"""P3O: a policy gradient of pairs, the difference of two rewards times that of the texts' log-probabilities.

Wu et al. 2023, "Pairwise Proximal Policy Optimization": https://arxiv.org/abs/2310.00212
A constant added to all rewards of a prompt changes nothing. `loss` "p3o_joint" clips both texts together.

Known property: ratios are those of whole texts, which leave the clip within a few steps; see `policy/clip_fraction`.
"""

from __future__ import annotations

from tril_gym.agents.algorithms.pair_learning import OnlinePairs
from tril_gym.agents.learners.pair_config import RegressionConfig
from tril_gym.utils.config_fields import with_defaults


@with_defaults(loss="p3o", kl_coef=0.05, epochs=2)
class P3OConfig(RegressionConfig):
    """The hyperparameters of an update by differences of rewards, with defaults of P3O."""


class P3O(OnlinePairs):
    """Pairwise proximal policy optimization."""

    name = "p3o"
    config_type = P3OConfig
