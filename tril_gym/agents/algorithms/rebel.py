"""REBEL: the difference of two texts' log-ratios to π_old is regressed onto the difference of their rewards.

Gao et al. 2024, algorithm 1: https://arxiv.org/abs/2404.16767
The loss is η² times that of the paper, as in its code: η is a step in nats per reward and must fit the reward's scale.
Known property: the first step is 4η times the policy gradient; with `p3o` instead of `rebel`, that gradient itself.

With `rollin_prob` both texts of a pair continue the same part of a text of the policy, and only what differs teaches:
REFUEL (Gao et al. 2024, https://arxiv.org/abs/2410.04612) with tokens in place of turns.
"""

from __future__ import annotations

from tril_gym.agents.algorithms.pair_learning import OnlinePairs
from tril_gym.agents.learners.pair_config import RegressionConfig
from tril_gym.utils.config_fields import with_defaults


@with_defaults(loss="rebel", eta=1.0, kl_coef=0.05, epochs=4)
class REBELConfig(RegressionConfig):
    """The hyperparameters of an update by differences of rewards, with defaults of REBEL."""


class REBEL(OnlinePairs):
    """Regression to relative rewards."""

    name = "rebel"
    config_type = REBELConfig
