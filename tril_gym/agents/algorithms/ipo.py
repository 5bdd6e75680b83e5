"""IPO: the difference of a pair's log-ratios is regressed onto 1/(2β), so that it cannot grow without bound.

Azar et al. 2023, eq. 17: https://arxiv.org/abs/2310.12036
The paper sums over tokens; `loss` "ipo_mean" averages, as TRL does.

Known property: it is REBEL's regression with the reference policy in place of π_old, and rewards of ±½.
"""

from __future__ import annotations

from tril_gym.agents.algorithms.pair_learning import OfflinePairs
from tril_gym.agents.learners.pair_config import OfflinePairConfig
from tril_gym.utils.config_fields import with_defaults


@with_defaults(loss="ipo", beta=0.1, learning_rate=1e-6, epochs=1)
class IPOConfig(OfflinePairConfig):
    """The hyperparameters of an update by given preferences, with defaults of IPO."""


class IPO(OfflinePairs):
    """Identity preference optimization."""

    name = "ipo"
    config_type = IPOConfig
