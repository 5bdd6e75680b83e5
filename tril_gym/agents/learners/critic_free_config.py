"""Hyperparameters of updates without a critic: a text is compared with the other texts of its prompt, or the batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from tril_gym.agents.collection.baselines import BaselineTexts
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.advantages import Advantages, group_based
from tril_gym.agents.learners.objectives import ClippedRatio, Objective
from tril_gym.agents.learners.policy_config import RewardConfig, check_given, check_undiscounted
from tril_gym.agents.learners.selection import with_signal
from tril_gym.utils.config_fields import config_field

NEED_GROUPS = ("leave_one_out", "centred", "standardised")


@dataclass(frozen=True, kw_only=True)
class CriticFreeConfig(RewardConfig):
    """Hyperparameters of an update without a critic."""

    texts_per_prompt: int = config_field(4, "Texts of a group, written for one prompt", minimum=1)
    advantage: Literal["leave_one_out", "centred", "standardised", "to_go", "whitened"] = config_field(
        "leave_one_out",
        "Advantage: leave_one_out: reward minus the mean of the group's other texts; centred: minus the group's mean;"
        " standardised: centred, divided by the group's standard deviation; to_go: each token's reward-to-go; whitened:"
        " to_go, whitened over the batch",
    )
    gamma: float = config_field(
        1.0, "Discount per token of rewards to go", minimum=0, maximum=1, only_with=("advantage", "to_go", "whitened")
    )
    ratio: Literal["token", "text", "weight"] = config_field(
        "token", "What is clipped: each token's ratio, one ratio of the text, or the ratio as a weight of the gradient"
    )
    clip_range: float = config_field(
        0.2, "Half-width ε of the ratio interval [1−ε, 1+ε]", above=0, below=1, only_with=("ratio", "token", "text")
    )
    clip_range_high: float | None = config_field(
        None, "Clip the ratio above at 1 + this value; of ratio weight the only bound; default: clip_range", above=0
    )
    length_norm: Literal["token", "text", "constant", "sum"] = config_field(
        "token",
        "Normalisation of the loss: token: mean over all tokens; text: mean of the texts' means; constant: mean of the"
        " texts' sums, divided by the maximum length; sum: mean of the texts' sums",
    )
    kl_in: Literal["reward", "loss"] = config_field(
        "reward", "Where the KL penalty is applied: in the rewards, or as a k3 estimate in the loss", group="KL"
    )
    given_texts: int = config_field(
        0, "Texts of each group that are references of the prompt, learned from as LUFFY does", minimum=0
    )
    given_shaping: float = config_field(
        0.1,
        "γ of the loss of references, −A π/(π + γ): tokens with a probability near γ are learned most",
        above=0,
        only_with=("given_texts",),
    )
    drop_groups: bool = config_field(False, "Leave out groups whose texts were all rewarded alike")
    subtract_greedy: bool = config_field(False, "Subtract from a text's reward that of the policy's greedy text")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.advantage in NEED_GROUPS and self.texts_per_prompt < 2:
            raise ValueError(
                f"texts_per_prompt must be at least 2 for the advantage {self.advantage}, got {self.texts_per_prompt};"
                " 4 is usual"
            )
        if self.drop_groups and self.texts_per_prompt < 2:
            raise ValueError(
                "drop_groups leaves out groups whose texts all have the same reward, which is every group with"
                f" texts_per_prompt {self.texts_per_prompt}; leave it out, or use texts_per_prompt 4"
            )
        if self.kl_in == "loss" and self.kl_estimator != "k1":
            raise ValueError(
                f"kl_estimator is for the KL in the rewards only, got {self.kl_estimator} with kl_in loss, where it is"
                " estimated by k3; leave it out, or use kl_in reward"
            )
        if self.subtract_greedy and self.advantage not in NEED_GROUPS:
            check_undiscounted(self.gamma, "subtract_greedy")
        usual = type(self).__dataclass_fields__["length_norm"].default
        if self.ratio == "text" and self.kl_in == "reward" and not self.given_texts and self.length_norm != usual:
            raise ValueError(
                f"length_norm is for losses of single tokens, got {self.length_norm} with ratio text, whose loss is per"
                " text; leave it out, or use another ratio, kl_in loss or given_texts"
            )
        check_given(self.texts_per_prompt, self.given_texts)

    def advantages(self) -> Advantages:
        """Return the estimator of advantages."""
        return partial(group_based, kind=self.advantage, gamma=self.gamma)

    def objective(self, layout: TextLayout) -> Objective:
        """Return the clipped surrogate with these numbers."""
        return ClippedRatio(
            clip_range=self.clip_range,
            clip_range_high=self.clip_range_high,
            ratio=self.ratio,
            length_norm=self.length_norm,
            max_length=layout.max_new_tokens,
            given_shaping=self.given_shaping,
        )

    @property
    def has_kl_in_loss(self) -> bool:
        """Whether the KL penalty is a term of the loss instead of the rewards."""
        return self.kl_in == "loss"

    def select(self, trajectories: Trajectories, generator: torch.Generator) -> Trajectories:
        """Return the groups to learn from: all, or those with different rewards."""
        return with_signal(trajectories) if self.drop_groups else trajectories

    @property
    def baseline_texts(self) -> BaselineTexts:
        """Return the policy's greedy text, if its reward is subtracted."""
        return BaselineTexts("greedy" if self.subtract_greedy else "none")
