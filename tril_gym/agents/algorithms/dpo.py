"""DPO: the loss is −log σ of β times the difference of the log-ratios to the reference policy of both texts of a pair.

Rafailov et al. 2023, eq. 7: https://arxiv.org/abs/2305.18290
Known properties: before the first step the loss is log 2; what both texts begin with has no gradient.

Log-probabilities are summed, never averaged; there is no dropout. Those of the reference policy are computed once for
each text. Both log-ratios are logged apart, since both may fall; the KL is that of texts which the policy samples.
"""

from __future__ import annotations

from tril_gym.agents.algorithms.pair_learning import OfflinePairs
from tril_gym.agents.learners.pair_config import OfflinePairConfig
from tril_gym.utils.config_fields import with_defaults


@with_defaults(loss="dpo", beta=0.1, learning_rate=1e-6, epochs=1)
class DPOConfig(OfflinePairConfig):
    """The hyperparameters of an update by given preferences, with defaults of DPO."""


class DPO(OfflinePairs):
    """Direct preference optimization."""

    name = "dpo"
    config_type = DPOConfig
