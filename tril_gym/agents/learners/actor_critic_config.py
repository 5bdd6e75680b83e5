"""Hyperparameters of the actor-critic update. Names and defaults are defined here and nowhere else."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

from tril_gym.agents.learners.optimizer import OptimizerConfig
from tril_gym.functional.kl import KLController, kl_controller
from tril_gym.functional.sampling import Decoding
from tril_gym.utils.config_fields import MAX_COEFFICIENT, MAX_RATE, MAX_TEMPERATURE, MIN_TEMPERATURE, config_field


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig(OptimizerConfig):
    """Hyperparameters of the actor-critic update."""

    critic_learning_rate: float | None = config_field(
        None, "AdamW step size of the critic; default: the policy's", above=0, maximum=MAX_RATE
    )
    critic: Literal["separate", "adapter", "shared"] | None = config_field(
        None,
        "Critic network: its own, an adapter on the policy's base, or a head on the policy; default: separate, with"
        " LoRA adapter",
    )
    critic_warmup: int = config_field(
        0, "First updates of each critic, in which it learns alone: the policy takes no step", minimum=0
    )
    gamma: float = config_field(1.0, "Discount per token", minimum=0, maximum=1)
    gae_lambda: float = config_field(
        0.95, "λ of GAE: 0 bootstraps after one token, 1 at the end of the text only", minimum=0, maximum=1
    )
    clip_range: float = config_field(0.2, "Half-width ε of the ratio interval [1−ε, 1+ε]", above=0, below=1)
    value_clip_range: float | None = config_field(
        None, "Largest change of a value per iteration, in units of reward; default: unlimited", above=0
    )
    vf_coef: float = config_field(0.5, "Weight of the value loss", minimum=0, maximum=MAX_COEFFICIENT)
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
    baseline: Literal["none", "prompt", "rollin"] = config_field(
        "none",
        "Subtract from a text's reward that of a text that the reference policy writes: prompt: for the same example;"
        " rollin: from the same state, with the same rollin; not for GAIL",
    )
    sampling_correction: Literal["none", "token", "sequence"] = config_field(
        "none",
        "Score the texts again before the update, and weight the policy's loss by the ratio to the probability at"
        " sampling: of each token, or of the text; for policies that a server writes, and in low precision",
    )
    sampling_cap: float = config_field(2.0, "Largest weight of sampling_correction", minimum=1, maximum=MAX_COEFFICIENT)
    scale_rewards: bool = config_field(
        False,
        "Divide rewards by the running standard deviation of all texts' rewards so far; kl_coef is then in units of"
        " scaled reward",
    )
    normalize_advantages: bool = config_field(False, "Whiten advantages over the learned tokens")
    kl_coef: float = config_field(
        0.001, "Reward lost per nat of KL to the reference policy", minimum=0, maximum=MAX_COEFFICIENT, group="KL"
    )
    kl_estimator: Literal["k1", "k2", "k3"] = config_field("k1", "Estimator of the KL inside the reward", group="KL")
    kl_controller: Literal["fixed", "adaptive", "proportional", "pid"] = config_field(
        "fixed", "Controller that moves kl_coef towards kl_target", group="KL"
    )
    kl_target: float | None = config_field(
        None, "Target KL in nats per text, needed by every controller but fixed", above=0, group="KL"
    )
    kl_horizon: float = config_field(
        10_000.0, "Time constant of the adaptive controller in episodes", above=0, group="KL"
    )
    kl_gain: float = config_field(
        1e-4,
        "K_p of the proportional and the PID controller, reward per nat",
        minimum=0,
        maximum=MAX_COEFFICIENT,
        group="KL",
    )
    kl_integral_gain: float = config_field(
        1e-4, "K_i of the PID controller, reward per nat", minimum=0, maximum=MAX_COEFFICIENT, group="KL"
    )
    kl_derivative_gain: float = config_field(
        0.0, "K_d of the PID controller, reward per nat", minimum=0, maximum=MAX_COEFFICIENT, group="KL"
    )
    target_kl: float | None = config_field(
        None, "Stop the epochs early at 1.5 times this KL, nats per token; default: never", above=0
    )
    joint_grad_norm: bool = config_field(False, "Clip one gradient norm over policy and critic, not one each")
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
                f"top_k={self.top_k} and top_p={self.top_p} cut what the policy draws, so that the update, whose"
                " log-probabilities are those of the whole softmax, is biased (policy/cut_mass: the probability that is"
                " cut off); leave both out, unless you reproduce published settings",
                stacklevel=3,
            )
        self.controller()

    def decoding(self) -> Decoding:
        """Return how the policy turns logits into the distribution that it samples from."""
        return Decoding(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

    def controller(self) -> KLController:
        """Return a new KL controller.

        Raises:
            ValueError: the controller needs a target.
        """
        gains = (self.kl_gain, self.kl_integral_gain, self.kl_derivative_gain)
        return kl_controller(
            self.kl_controller, coef=self.kl_coef, target=self.kl_target, horizon=self.kl_horizon, gains=gains
        )
