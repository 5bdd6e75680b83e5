"""BC: behaviour cloning, the supervised start. The references write, the policy learns to write like them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tril_gym.agents.actors.references import References
from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.behaviour_cloning import BehaviourCloning
from tril_gym.agents.learners.optimizer import OptimizerConfig
from tril_gym.utils.config_fields import config_field


@dataclass(frozen=True, kw_only=True)
class BCConfig(OptimizerConfig):
    """BC reads the optimizer's numbers and no others; its texts do not age, so one pass over them is usual."""

    epochs: int = config_field(1, "passes over the texts of an iteration", minimum=1)


class BC(Agent):
    """Behaviour cloning of the references."""

    name = "bc"
    config_type = BCConfig
    learner_type = BehaviourCloning

    @cached_property
    def references(self) -> References:
        """Who writes."""
        return References()

    def plan(self, iteration: int) -> Plan:
        """The references write everything; the reward that is logged is theirs."""
        return Plan(rollout=self.references)
