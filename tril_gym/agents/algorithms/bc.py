"""BC: behaviour cloning, the supervised start. The policy learns to write like the references."""

from __future__ import annotations

from dataclasses import dataclass

from tril_gym.agents.algorithms.from_references import FromReferences
from tril_gym.agents.learners.behaviour_cloning import BehaviourCloning
from tril_gym.agents.learners.optimizer import OptimizerConfig
from tril_gym.utils.config_fields import MAX_EPOCHS, config_field


@dataclass(frozen=True, kw_only=True)
class BCConfig(OptimizerConfig):
    """The hyperparameters of the optimizer; one pass is usual, since references do not depend on the policy."""

    epochs: int = config_field(1, "Passes over the texts of an iteration", minimum=1, maximum=MAX_EPOCHS)


class BC(FromReferences):
    """Behaviour cloning of the references."""

    name = "bc"
    config_type = BCConfig
    learner_type = BehaviourCloning
