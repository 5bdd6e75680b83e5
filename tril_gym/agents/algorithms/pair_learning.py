"""Algorithms that learn from pairs of texts of one prompt: which of two is better, or by how much.

Offline, somebody else wrote the pairs; online, the policy writes them and their rewards rank them.

Known property: a log-probability is a sum over the tokens of a text, so a common beginning of both teaches nothing.
"""

from __future__ import annotations

from gymnasium.vector import VectorEnv

from tril_gym.agents.actors.pairs import Pairs
from tril_gym.agents.actors.policy import PolicyLike
from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.pair_config import OfflinePairConfig
from tril_gym.utils.ranks import Ranks


class OfflinePairs(Agent):
    """A policy that learns from given pairs.

    Args:
        policy: the language model to train, in place; see `Agent`.
        envs: the vector environment of the prompts; its reward is logged, not learned from.
        config: the hyperparameters; by default the defaults of the config type.
        pairs: writes the pairs; by default each example's first reference and the column `rejected`.
        seed: seed of all randomness in training.
        ranks: see `Agent`.
    """

    needs_pairs = True

    def __init__(
        self,
        policy: PolicyLike,
        envs: VectorEnv,
        config: OfflinePairConfig | None = None,
        *,
        pairs: Pairs | None = None,
        seed: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        self.pairs = pairs or Pairs()
        super().__init__(policy, envs, config, seed=seed, ranks=ranks)

    def plan(self, iteration: int) -> Plan:
        """Return the plan: the two texts of a pair are written as a group."""
        return Plan(rollout=self.pairs, texts_per_prompt=2)


class OnlinePairs(Agent):
    """A policy that learns from the differences of its own texts."""

    def plan(self, iteration: int) -> Plan:
        """Return the plan: the policy writes the texts of each group, which may begin with one rollin of its own."""
        config = self.config
        rollin = {"rollin": self.policy, "rollin_prob": config.rollin_prob, "share_rollin": True}
        return Plan(
            rollout=self.policy,
            texts_per_prompt=config.texts_per_prompt,
            **(rollin if config.rollin_prob else {}),
        )
