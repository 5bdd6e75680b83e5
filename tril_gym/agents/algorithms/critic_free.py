"""Algorithms without a critic: a text is compared with the other texts of its prompt, or with the batch.

They are one update with numbers of their own, from `rloo.py` to `cispo.py`: how rewards become advantages, which ratio
is clipped, how tokens are averaged, and where the KL to the reference policy is paid; see `CriticFreeConfig`.

Known property: all tokens of a text have the same advantage, so credit is assigned by repetition alone.
"""

from __future__ import annotations

from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.algorithms.joined_references import joined_by_references
from tril_gym.agents.collection.plan import Plan


class CriticFree(Agent):
    """A policy that learns from groups of its own texts."""

    def plan(self, iteration: int) -> Plan:
        """Return the plan: the policy writes the texts of each group, which references may join."""
        config = self.config
        return joined_by_references(self.policy, texts=config.texts_per_prompt, given=config.given_texts)
