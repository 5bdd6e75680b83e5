"""Algorithms that learn from pairs of texts of one prompt: which of two is better, or by how much.

Offline, somebody else wrote the pairs; online, the policy writes them and their rewards rank them.

Known property: a log-probability is a sum over the tokens of a text, so a common beginning of both teaches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from tril_gym.agents.actors.pairs import Pairs
from tril_gym.agents.actors.policy import PolicyLike
from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.advantages import Advantages
from tril_gym.agents.learners.objectives import Objective, PairObjective
from tril_gym.agents.learners.policy_config import PolicyConfig, RewardConfig
from tril_gym.utils.config_fields import MAX_COEFFICIENT, config_field
from tril_gym.utils.ranks import Ranks


def no_advantages(trajectories: Trajectories, rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Return advantages and returns of 0, for losses of whole texts."""
    return torch.zeros_like(rewards), torch.zeros_like(rewards)


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig(PolicyConfig):
    """Hyperparameters of an update by preferences."""

    loss: Literal["dpo", "ipo", "ipo_mean", "hinge", "hinge_norm"] = config_field(
        "dpo",
        "Loss of a pair; ipo_mean is ipo on means over tokens, as TRL has it, hinge has no reference policy",
    )
    beta: float = config_field(
        0.1,
        "β of dpo and ipo, γ of the hinges: preference per nat of log-ratio",
        above=0,
        maximum=MAX_COEFFICIENT,
    )
    label_smoothing: float = config_field(0.0, "Probability that a preference is wrong, of dpo", minimum=0, below=0.5)

    def advantages(self) -> Advantages:
        """Return none."""
        return no_advantages

    def objective(self, layout: TextLayout) -> Objective:
        """Return the loss of a pair, whose better text is known by the rewards."""
        return PairObjective(loss=self.loss, beta=self.beta, label_smoothing=self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class OfflinePairConfig(PreferenceConfig):
    """Hyperparameters of an update by preferences that are given."""

    needs_rewards: ClassVar[bool] = False

    def objective(self, layout: TextLayout) -> Objective:
        """Return the loss of a pair, whose first text is the better one."""
        return PairObjective(
            loss=self.loss, beta=self.beta, label_smoothing=self.label_smoothing, first_is_preferred=True
        )

    @property
    def has_given_texts(self) -> bool:
        """Whether the policy did not write the texts that it learns from."""
        return True


@dataclass(frozen=True, kw_only=True)
class RegressionConfig(RewardConfig):
    """Hyperparameters of an update by the difference of two rewards."""

    loss: Literal["rebel", "p3o", "p3o_joint"] = config_field(
        "rebel", "Loss of a pair: a regression, or a policy gradient clipped for each text or jointly"
    )
    eta: float = config_field(1.0, "η of rebel, nats per reward: the step size", above=0, maximum=MAX_COEFFICIENT)
    clip_range: float = config_field(0.2, "ε of p3o, of the ratios of whole texts", above=0, below=1)
    texts_per_prompt: int = config_field(2, "Texts of a group, all pairs of which are learned from", minimum=2)

    def advantages(self) -> Advantages:
        """Return none."""
        return no_advantages

    def objective(self, layout: TextLayout) -> Objective:
        """Return the loss of a pair."""
        return PairObjective(loss=self.loss, beta=self.eta, clip_range=self.clip_range)


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
        """Return the plan: the policy writes the texts of each group."""
        return Plan(rollout=self.policy, texts_per_prompt=self.config.texts_per_prompt)
