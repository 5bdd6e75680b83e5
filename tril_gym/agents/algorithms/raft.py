"""RAFT: of the policy's texts for a prompt the best ones are imitated.

Dong et al. 2023: https://arxiv.org/abs/2304.06767

Known property: with one of n texts it is best-of-n, distilled; the KL of these texts to the policy is at most
log n − (n − 1)/n nats.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.algorithms.joined_references import joined_by_references
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.advantages import Advantages
from tril_gym.agents.learners.objectives import Objective, TextObjective
from tril_gym.agents.learners.policy_config import PolicyConfig, check_given
from tril_gym.agents.learners.selection import best_texts
from tril_gym.utils.config_fields import config_field


def imitate(trajectories: Trajectories, rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Return an advantage of 1 for every token: the likelihood of all."""
    return trajectories.learn.to(rewards.dtype), torch.zeros_like(rewards)


@dataclass(frozen=True, kw_only=True)
class RAFTConfig(PolicyConfig):
    """The hyperparameters of an update of the policy, and the number of texts."""

    texts_per_prompt: int = config_field(4, "Texts of a prompt", minimum=2)
    best_texts: int = config_field(1, "Texts of a prompt that are imitated, the best ones", minimum=1)
    given_texts: int = config_field(0, "Texts of each group that are references of the prompt", minimum=0)
    epochs: int = config_field(1, "Passes over the texts of an iteration", minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.best_texts > self.texts_per_prompt:
            raise ValueError(
                f"best_texts must be at most the {self.texts_per_prompt} texts of a prompt, texts_per_prompt, got"
                f" {self.best_texts}; 1 is usual"
            )
        check_given(self.texts_per_prompt, self.given_texts)

    def advantages(self) -> Advantages:
        """Return the same for every token."""
        return imitate

    def objective(self, layout: TextLayout) -> Objective:
        """Return the negative log-likelihood."""
        return TextObjective(loss="likelihood")

    def select(self, trajectories: Trajectories, generator: torch.Generator) -> Trajectories:
        """Return the best texts of each group."""
        return best_texts(trajectories, self.best_texts)


class RAFT(Agent):
    """Imitation of the best of n texts."""

    name = "raft"
    config_type = RAFTConfig

    def plan(self, iteration: int) -> Plan:
        """Return the plan: the policy writes the texts of each group, which references may join."""
        config = self.config
        return joined_by_references(self.policy, texts=config.texts_per_prompt, given=config.given_texts)
