"""GKD: on-policy distillation. In each state of its own texts the policy learns the guide's whole distribution.

Agarwal et al. 2024, "On-Policy Distillation of Language Models": https://arxiv.org/abs/2306.13649
The guide's temperature divides its logits. The divergence is the Jensen-Shannon one, or the forward or the reverse KL
(section 2 of the paper).

Differs from the paper: with `rollin_prob` the guide begins texts, where the paper mixes whole texts of a data set.
Known property: the gradient of the reverse KL is a policy gradient whose reward is log π_guide − log π.
"""

from __future__ import annotations

from tril_gym.agents.algorithms.distilling import Distilling
from tril_gym.agents.learners.distillation import DistillationConfig
from tril_gym.utils.config_fields import with_defaults


@with_defaults(loss="jsd")
class GKDConfig(DistillationConfig):
    """The hyperparameters of distillation, with defaults of GKD."""


class GKD(Distilling):
    """Generalized knowledge distillation."""

    name = "gkd"
    config_type = GKDConfig
