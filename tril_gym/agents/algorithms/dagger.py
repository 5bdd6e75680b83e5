"""DAgger: the policy writes, and in each of its states it learns the guide's most probable next token.

Ross et al. 2011, "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning":
https://arxiv.org/abs/1011.0686
The states are the policy's own, so its mistakes do not compound as in behaviour cloning. The guide is a language model
or the references; then the label is the one with which the text can come closest to a reference, by edits of tokens
(Sabour et al. 2018, "Optimal Completion Distillation": https://arxiv.org/abs/1810.01398).

Differs from the paper: an iteration learns from its own texts, not from those of all iterations.
Known property: only the guide's most probable token counts, so the policy becomes surer than its guide.
"""

from __future__ import annotations

from tril_gym.agents.algorithms.distilling import Distilling
from tril_gym.agents.learners.distillation import DistillationConfig
from tril_gym.utils.config_fields import with_defaults


@with_defaults(loss="label")
class DAggerConfig(DistillationConfig):
    """The hyperparameters of distillation, with defaults of DAgger."""


class DAgger(Distilling):
    """Imitation of a guide in the policy's states."""

    name = "dagger"
    config_type = DAggerConfig
