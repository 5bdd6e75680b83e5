"""Hyperparameters of the actor-critic update. Names and defaults are defined here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from tril_gym.agents.collection.baselines import BaselineTexts
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.learners.advantages import Advantages, gae_advantages
from tril_gym.agents.learners.objectives import AdvantageRegression, ClippedRatio, Objective
from tril_gym.agents.learners.policy_config import RewardConfig, check_undiscounted
from tril_gym.utils.config_fields import MAX_COEFFICIENT, MAX_RATE, config_field


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig(RewardConfig):
    """Hyperparameters of the actor-critic update."""

    has_critic: ClassVar[bool] = True

    critic_learning_rate: float | None = config_field(
        None, "AdamW step size of the critic; default: the policy's", above=0, maximum=MAX_RATE
    )
    critic: Literal["separate", "adapter", "shared"] | None = config_field(
        None,
        "Critic network: separate: a network of its own; adapter: a LoRA adapter on the policy's base; shared: a value"
        " head on the policy; default: separate, for a LoRA policy adapter",
    )
    critic_warmup: int = config_field(
        0, "Iterations in which each critic is first trained alone, without a step of the policy", minimum=0
    )
    gamma: float = config_field(1.0, "Discount per token", minimum=0, maximum=1)
    gae_lambda: float = config_field(
        0.95, "λ of GAE: 0 bootstraps after one token, 1 at the end of the text only", minimum=0, maximum=1
    )
    policy_loss: Literal["clip", "apa", "awr"] = config_field(
        "clip",
        "Loss of the policy: clip: PPO's surrogate; apa: squared error of log π to its anchor plus A/λ; awr: likelihood"
        " weighted by e^(A/λ)",
    )
    apa_temperature: float = config_field(
        0.1,
        "λ of apa and awr, advantage per nat; whitened advantages are in standard deviations",
        above=0,
        maximum=MAX_COEFFICIENT,
        only_with=("policy_loss", "apa", "awr"),
    )
    apa_anchor: Literal["old", "reference"] = config_field(
        "old",
        "Policy that apa stays close to; reference needs kl_coef 0, or its KL would be penalised twice",
        only_with=("policy_loss", "apa"),
    )
    clip_range: float = config_field(
        0.2, "Half-width ε of the ratio interval [1−ε, 1+ε]", above=0, below=1, only_with=("policy_loss", "clip")
    )
    value_clip_range: float | None = config_field(
        None, "Largest change of a value per iteration, in units of reward; default: unlimited", above=0
    )
    vf_coef: float = config_field(0.5, "Weight of the value loss", minimum=0, maximum=MAX_COEFFICIENT)
    baseline: Literal["none", "prompt", "rollin"] = config_field(
        "none",
        "Subtract from a text's reward the reward of a text that the reference policy writes for the same example:"
        " prompt: from the prompt; rollin: from the end of the same rollin; not for GAIL",
    )
    sampling_correction: Literal["none", "token", "sequence"] | None = config_field(
        None,
        "Score the texts again before the update, and weight the policy's loss by the importance ratio to the sampling"
        " probability, of each token or of the sequence; for texts that a server writes, and in low precision; default:"
        " token with overlap, else none",
    )
    sampling_cap: float = config_field(
        2.0,
        "Largest weight of sampling_correction",
        minimum=1,
        maximum=MAX_COEFFICIENT,
        only_with=("sampling_correction", "token", "sequence"),
    )
    overlap: bool = config_field(
        False,
        "Write the next texts while the policy learns from these, with a copy of its weights before the update (with"
        " LoRA, of its adapter); sampling_correction weights them",
    )
    normalize_advantages: bool = config_field(False, "Whiten advantages over the learned tokens")
    joint_grad_norm: bool = config_field(False, "Clip one gradient norm over policy and critic, not one each")

    def __post_init__(self) -> None:
        if self.sampling_correction is None:
            object.__setattr__(self, "sampling_correction", "token" if self.overlap is True else "none")
        super().__post_init__()
        self._check_overlap()
        if self.baseline != "none":
            check_undiscounted(self.gamma, f"baseline {self.baseline}")
        if self.policy_loss == "apa" and self.apa_anchor == "reference":
            moves = self.kl_controller in ("proportional", "pid")  # also from 0
            if self.kl_coef > 0 or moves:
                raise ValueError(
                    f"kl_coef must be 0 with apa_anchor reference, and stay there, got {self.kl_coef} with"
                    f" kl_controller {self.kl_controller}: the distance to the reference policy would be penalised"
                    " twice; use kl_coef 0 with kl_controller fixed, or apa_anchor old"
                )

    def _check_overlap(self) -> None:
        if self.overlap and self.sampling_correction == "none":
            raise ValueError(
                "overlap learns from texts that the policy wrote before its last update, so sampling_correction must be"
                " token or sequence, got none; leave it out for token"
            )
        if self.overlap and self.compile:
            raise ValueError(
                "overlap writes in a second thread, and compiled passes belong to one; leave compile or overlap out"
            )

    @property
    def collects_ahead(self) -> bool:
        """Whether the next batch is written while the one before it is learned from."""
        return self.overlap

    def advantages(self) -> Advantages:
        """Return GAE with these numbers."""
        return partial(gae_advantages, gamma=self.gamma, gae_lambda=self.gae_lambda, whiten=self.normalize_advantages)

    def objective(self, layout: TextLayout) -> Objective:
        """Return PPO's clipped surrogate, or the regression to advantages."""
        if self.policy_loss == "clip":
            return ClippedRatio(clip_range=self.clip_range)
        return AdvantageRegression(kind=self.policy_loss, temperature=self.apa_temperature, anchor=self.apa_anchor)

    @property
    def scores_again(self) -> bool:
        """Whether texts are scored before the update: to correct their sampling."""
        return self.sampling_correction != "none"

    @property
    def baseline_texts(self) -> BaselineTexts:
        """Return a text of the reference policy, if one is asked for."""
        return BaselineTexts(self.baseline)
