"""What DAgger and GKD share: the policy writes, and a guide says in each of its states what it would write next."""

from __future__ import annotations

from typing import Any

from tril_gym.agents.algorithms.agent import GuidedAgent
from tril_gym.agents.collection.actor import Actor
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.distillation import Distillation, check_teacher


class Distilling(GuidedAgent):
    """A policy that learns the next tokens of a guide in its own states."""

    learner_type = Distillation

    def _checked_guide(self, guide: Any) -> Actor | None:
        found = super()._checked_guide(guide)
        check_teacher(found, self.layout, self.config.loss)
        return found

    def plan(self, iteration: int) -> Plan:
        """Return the plan: the policy writes, the guide begins some of the texts."""
        return Plan(rollin=self.guide, rollin_prob=self.config.rollin_prob, rollout=self.policy)
