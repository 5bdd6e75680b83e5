"""A-LoL: given texts are learned by how much better they are rewarded than those of the reference policy.

Baheti et al. 2024, "Leftover Lunch": https://arxiv.org/abs/2305.14718
A text is one action with advantage A = R − V(x); texts with A ≤ 0 are left out, in every variant.

Differs from the paper: V(x) is the mean reward of the reference policy's texts for the same prompt, not a head fitted
to the validation prompts, which leaks their rewards. Known properties: "kl" is "ref_free" with A − β for A; "ref_free"
with `value_texts` 0, so V = 0, is behaviour cloning weighted by rewards (wBC; with "ratio" it is R-LoL).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from tril_gym.agents.algorithms.from_references import FromReferences
from tril_gym.agents.collection.baselines import BaselineTexts
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.objectives import Objective, TextObjective
from tril_gym.agents.learners.policy_config import PolicyConfig
from tril_gym.agents.learners.selection import drawn_by_reward, with_positive_rewards
from tril_gym.functional.kl import FixedKL, KLController
from tril_gym.utils.config_fields import MAX_COEFFICIENT, config_field


@dataclass(frozen=True, kw_only=True)
class ALoLConfig(PolicyConfig):
    """The hyperparameters of an update of the policy, and those of advantage-leftover-lunch."""

    has_given_texts: ClassVar[bool] = True

    variant: Literal["ratio", "ref_free", "token_ratio", "kl"] = config_field(
        "ratio", "Weight beside the advantage: ratio: the text's; token_ratio: a token's; ref_free: none; kl: a KL term"
    )
    clip_range: float = config_field(
        0.9, "Half-width ε of the interval of ratios", above=0, below=1, only_with=("variant", "ratio", "token_ratio")
    )
    kl_coef: float = config_field(0.0, "β of kl, advantage per nat", minimum=0, maximum=MAX_COEFFICIENT, group="KL")
    value_texts: int = config_field(4, "Texts of the reference policy whose mean reward is V(x); 0: V is 0", minimum=0)
    draw_by_advantage: bool = config_field(False, "Draw texts in proportion to A; weighted by A too, they count by A²")
    epochs: int = config_field(1, "Passes over the texts of an iteration", minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl_coef and self.variant != "kl":
            raise ValueError(f"kl_coef is of the variant kl, got {self.kl_coef} with {self.variant}; use variant kl")

    def objective(self, layout: TextLayout) -> Objective:
        """Return the variant's loss."""
        return TextObjective(loss=self.variant, clip_range=self.clip_range)

    def controller(self) -> KLController:
        """Return a constant coefficient."""
        return FixedKL(self.kl_coef)

    def select(self, trajectories: Trajectories, generator: torch.Generator) -> Trajectories:
        """Return the texts whose advantage is above 0."""
        found = with_positive_rewards(trajectories)
        return drawn_by_reward(found, generator) if self.draw_by_advantage else found

    @property
    def has_kl_in_loss(self) -> bool:
        """Whether the KL penalty is a term of the loss instead of the rewards."""
        return True

    @property
    def baseline_texts(self) -> BaselineTexts:
        """Return the reference policy's texts of the same prompt, for V(x), if there are any."""
        return BaselineTexts("prompt", self.value_texts) if self.value_texts else super().baseline_texts


class ALoL(FromReferences):
    """Offline learning from texts that are better than the reference policy's."""

    name = "a-lol"
    config_type = ALoLConfig
