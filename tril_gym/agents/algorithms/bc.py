"""BC: behaviour cloning, the supervised start. The policy learns to write like the references."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tril_gym.agents.actors.references import References
from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.behaviour_cloning import BehaviourCloning
from tril_gym.agents.learners.optimizer import OptimizerConfig
from tril_gym.utils.config_fields import MAX_EPOCHS, config_field


@dataclass(frozen=True, kw_only=True)
class BCConfig(OptimizerConfig):
    """The hyperparameters of the optimizer; one pass is usual, since references do not depend on the policy."""

    epochs: int = config_field(1, "Passes over the texts of an iteration", minimum=1, maximum=MAX_EPOCHS)


class BC(Agent):
    """Behaviour cloning of the references."""

    name = "bc"
    config_type = BCConfig
    learner_type = BehaviourCloning

    @cached_property
    def references(self) -> References:
        """The actor that writes the references."""
        return References()

    def plan(self, iteration: int) -> Plan:
        """Return the plan: the references write whole texts; their reward is logged."""
        return Plan(rollout=self.references)
