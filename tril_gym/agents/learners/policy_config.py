"""Hyperparameters that every update of a policy by rewards or preferences has, and the strategies it asks for."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from tril_gym.agents.collection.baselines import BaselineTexts
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.advantages import Advantages, no_advantages
from tril_gym.agents.learners.objectives import Objective
from tril_gym.agents.learners.optimizer import OptimizerConfig
from tril_gym.functional.kl import Estimator, FixedKL, KLController, kl_controller
from tril_gym.functional.sampling import Decoding
from tril_gym.utils.config_fields import MAX_COEFFICIENT, MAX_TEMPERATURE, MIN_TEMPERATURE, config_field


@dataclass(frozen=True, kw_only=True)
class PolicyConfig(OptimizerConfig):
    """Hyperparameters of every update of a policy; a subclass says what its objective is."""

    has_given_texts: ClassVar[bool] = False  # whether others than the policy wrote the texts that it learns from

    ent_coef: float = config_field(
        0.0, "Weight of the entropy bonus, reward per nat", minimum=0, maximum=MAX_COEFFICIENT
    )
    target_coef: float = config_field(
        0.0, "Weight of the negative log-likelihood of a reference", minimum=0, maximum=MAX_COEFFICIENT
    )
    group_by_length: bool | None = config_field(
        None, "Minibatches of texts of similar length; default: only for models that pad texts to one length"
    )
    compile: bool = config_field(
        False, "Compile the networks with torch, which takes seconds to minutes for each new batch size"
    )
    target_kl: float | None = config_field(
        None, "Stop the epochs early at 1.5 times this KL, nats per token; default: never", above=0
    )
    temperature: float = config_field(
        1.0,
        "Softmax temperature of the policy, in sampling and scoring",
        minimum=MIN_TEMPERATURE,
        maximum=MAX_TEMPERATURE,
        group="policy",
    )
    top_k: int | None = config_field(
        None, "Sample from the k most probable tokens; only to reproduce published settings", minimum=1, group="policy"
    )
    top_p: float | None = config_field(
        None, "Sample from the nucleus; only to reproduce published settings", above=0, maximum=1, group="policy"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoding().truncates:
            warnings.warn(
                f"top_k={self.top_k} and top_p={self.top_p} truncate the distribution that the policy samples from, so"
                " the update, which uses log-probabilities of the full softmax, is biased (policy/cut_mass is the"
                " probability that is cut off); leave both out, unless you reproduce published settings",
                stacklevel=3,
            )

    def advantages(self) -> Advantages:
        """Return the estimator of advantages; by default none, for losses of whole texts, which read their rewards."""
        return no_advantages

    def objective(self, layout: TextLayout) -> Objective:
        """Return what the policy minimises."""
        raise NotImplementedError(f"{type(self).__name__} names no objective")

    @property
    def has_kl_in_loss(self) -> bool:
        """Whether the KL penalty is a term of the loss instead of the rewards."""
        return False

    def select(self, trajectories: Trajectories, generator: torch.Generator) -> Trajectories:
        """Return the texts to learn from, in whole groups; by default all."""
        return trajectories

    @property
    def baseline_texts(self) -> BaselineTexts:
        """Return the other texts whose rewards are subtracted from a text's; by default none."""
        return BaselineTexts()

    @property
    def rollout_values(self) -> tuple[int, int]:
        """Number of texts that estimate the value of a state, and of tokens between such states; (0, 1) for none."""
        return 0, 1

    @property
    def scores_again(self) -> bool:
        """Whether texts are scored by the policy before the update, in place of log-probabilities at sampling."""
        return self.has_given_texts

    @property
    def keeps_reference(self) -> bool:
        """Whether the reference policy stays the policy that training began with."""
        return True

    def renews_reference(self, iteration: int) -> bool:
        """Return whether the reference policy becomes the policy after so many iterations; by default never."""
        return False

    def decoding(self) -> Decoding:
        """Return how the policy turns logits into the distribution that it samples from."""
        return Decoding(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

    def controller(self) -> KLController:
        """Return a new controller of the KL coefficient, by default one of 0."""
        return FixedKL(0.0)

    @property
    def kl_form(self) -> Estimator:
        """Return the estimator of the KL inside the rewards."""
        return "k1"

    @property
    def scales_rewards(self) -> bool:
        """Whether rewards are divided by their running standard deviation."""
        return False


@dataclass(frozen=True, kw_only=True)
class RewardConfig(PolicyConfig):
    """Hyperparameters of updates by rewards, which the KL to the reference policy reduces."""

    scale_rewards: bool = config_field(
        False,
        "Divide rewards by the running standard deviation of all texts' rewards so far; kl_coef is then in units of"
        " scaled reward",
    )
    kl_coef: float = config_field(
        0.001, "Reward lost per nat of KL to the reference policy", minimum=0, maximum=MAX_COEFFICIENT, group="KL"
    )
    kl_estimator: Literal["k1", "k2", "k3"] = config_field("k1", "Estimator of the KL inside the reward", group="KL")
    kl_controller: Literal["fixed", "adaptive", "proportional", "pid"] = config_field(
        "fixed", "Controller that moves kl_coef towards kl_target", group="KL"
    )
    kl_target: float | None = config_field(
        None,
        "Target KL in nats per text, needed by every controller but fixed",
        above=0,
        group="KL",
        only_with=("kl_controller", "adaptive", "proportional", "pid"),
    )
    kl_horizon: float = config_field(
        10_000.0,
        "Time constant of the adaptive controller in episodes",
        above=0,
        group="KL",
        only_with=("kl_controller", "adaptive"),
    )
    kl_gain: float = config_field(
        1e-4,
        "K_p of the proportional and the PID controller, reward per nat",
        minimum=0,
        maximum=MAX_COEFFICIENT,
        group="KL",
        only_with=("kl_controller", "proportional", "pid"),
    )
    kl_integral_gain: float = config_field(
        1e-4,
        "K_i of the PID controller, reward per nat",
        minimum=0,
        maximum=MAX_COEFFICIENT,
        group="KL",
        only_with=("kl_controller", "pid"),
    )
    kl_derivative_gain: float = config_field(
        0.0,
        "K_d of the PID controller, reward per nat",
        minimum=0,
        maximum=MAX_COEFFICIENT,
        group="KL",
        only_with=("kl_controller", "pid"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.controller()

    def controller(self) -> KLController:
        """Return a new KL controller.

        Raises:
            ValueError: the controller needs a target.
        """
        gains = (self.kl_gain, self.kl_integral_gain, self.kl_derivative_gain)
        return kl_controller(
            self.kl_controller, coef=self.kl_coef, target=self.kl_target, horizon=self.kl_horizon, gains=gains
        )

    @property
    def kl_form(self) -> Estimator:
        """Return the estimator of the KL inside the rewards."""
        return self.kl_estimator

    @property
    def scales_rewards(self) -> bool:
        """Whether rewards are divided by their running standard deviation."""
        return self.scale_rewards


def check_undiscounted(gamma: float, baseline: str) -> None:
    """Raise `ValueError` where a baseline, which is subtracted at the last token, would be discounted."""
    if gamma < 1:
        raise ValueError(
            f"gamma must be 1 with {baseline}, got {gamma}: the baseline, which is subtracted at the last token, would"
            " be discounted by the text's own length and bias the gradient; leave one of them out"
        )


def check_given(texts: int, given: int) -> None:
    """Raise `ValueError` where the policy writes no text of a group."""
    if given >= texts:
        raise ValueError(
            f"given_texts must be below texts_per_prompt, {texts}, so that the policy writes the others, got {given}; 1"
            " is usual"
        )
