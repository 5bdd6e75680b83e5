"""What behaviour cloning and A-LoL share: the policy learns from whole references."""

from __future__ import annotations

from functools import cached_property

from tril_gym.agents.actors.references import References
from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.collection.plan import Plan


class FromReferences(Agent):
    """A policy that learns from the references."""

    @cached_property
    def references(self) -> References:
        """The actor that writes the references."""
        return References()

    def plan(self, iteration: int) -> Plan:
        """Return the plan: the references write whole texts, and the environment rewards them."""
        return Plan(rollout=self.references)
