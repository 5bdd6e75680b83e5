"""Hyperparameters of updates by pairs of texts of one prompt: which of two is better, or by how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.learners.objectives import Objective, PairObjective
from tril_gym.agents.learners.policy_config import PolicyConfig, RewardConfig
from tril_gym.utils.config_fields import MAX_COEFFICIENT, config_field


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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_smoothing and self.loss != "dpo":
            raise ValueError(
                f"label_smoothing is for the loss dpo only, got {self.label_smoothing} with {self.loss}; use loss dpo"
            )

    def objective(self, layout: TextLayout) -> Objective:
        """Return the loss of a pair, whose better text is known by the rewards."""
        return PairObjective(loss=self.loss, beta=self.beta, label_smoothing=self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class OfflinePairConfig(PreferenceConfig):
    """Hyperparameters of an update by preferences that are given."""

    needs_rewards: ClassVar[bool] = False
    has_given_texts: ClassVar[bool] = True

    def objective(self, layout: TextLayout) -> Objective:
        """Return the loss of a pair, whose first text is the better one."""
        return PairObjective(
            loss=self.loss, beta=self.beta, label_smoothing=self.label_smoothing, first_is_preferred=True
        )


@dataclass(frozen=True, kw_only=True)
class SharedRollinConfig:
    """Where the texts of a group begin."""

    rollin_prob: float = config_field(
        0.0,
        "Probability that the texts of a group share a rollin, the beginning of a text of the policy; with rebel:"
        " REFUEL",
        minimum=0,
        maximum=1,
    )


@dataclass(frozen=True, kw_only=True)
class RegressionConfig(SharedRollinConfig, RewardConfig):
    """Hyperparameters of an update by the difference of two rewards."""

    loss: Literal["rebel", "p3o", "p3o_joint"] = config_field(
        "rebel", "Loss of a pair: a regression, or a policy gradient clipped for each text or jointly"
    )
    eta: float = config_field(
        1.0, "η of rebel, nats per reward: the step size", above=0, maximum=MAX_COEFFICIENT, only_with=("loss", "rebel")
    )
    clip_range: float = config_field(
        0.2, "ε of p3o, of the ratios of whole texts", above=0, below=1, only_with=("loss", "p3o", "p3o_joint")
    )
    texts_per_prompt: int = config_field(2, "Texts of a group, all pairs of which are learned from", minimum=2)

    def objective(self, layout: TextLayout) -> Objective:
        """Return the loss of a pair."""
        return PairObjective(loss=self.loss, beta=self.eta, clip_range=self.clip_range)
