"""Online DPO: the policy writes the texts of each prompt, their rewards rank them, and DPO's loss learns the pairs.

Guo et al. 2024: https://arxiv.org/abs/2402.04792
Texts that are rewarded alike are no pair, and groups without a pair are left out.

Known property: the order of the rewards counts, not by how much they differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tril_gym.agents.algorithms.pair_learning import OnlinePairs
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.pair_config import PreferenceConfig, SharedRollinConfig
from tril_gym.agents.learners.selection import with_signal
from tril_gym.utils.config_fields import config_field


@dataclass(frozen=True, kw_only=True)
class OnlineDPOConfig(SharedRollinConfig, PreferenceConfig):
    """The hyperparameters of an update by preferences, and the size of groups."""

    texts_per_prompt: int = config_field(2, "Texts of a group, all pairs of which are learned from", minimum=2)
    epochs: int = config_field(1, "Passes over the texts of an iteration", minimum=1)

    def select(self, trajectories: Trajectories, generator: torch.Generator) -> Trajectories:
        """Return the groups that have a pair: a minibatch of others would move the policy by momentum alone."""
        return with_signal(trajectories)


class OnlineDPO(OnlinePairs):
    """Direct preference optimization of the policy's own texts."""

    name = "online-dpo"
    config_type = OnlineDPOConfig
