"""Hyperparameters of adversarial learning. Names and defaults are defined here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig
from tril_gym.utils.config_fields import MAX_COEFFICIENT, MAX_EPOCHS, MAX_RATE, config_field


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig(ActorCriticConfig):
    """Hyperparameters of the actor-critic update and of the discriminator."""

    discriminator: str = config_field(
        "tiny",
        "Discriminator: tiny, adapter (with a LoRA policy), or name or folder of a sequence classifier",
        group="reward",
    )
    discriminator_level: Literal["text", "token"] = config_field(
        "text",
        "What the discriminator classifies and rewards: text: whole texts; token: each token, given those before it;"
        " token needs the discriminator tiny or adapter",
        group="reward",
    )
    discriminator_learning_rate: float = config_field(
        1e-3, "AdamW step size of the discriminator, constant", above=0, maximum=MAX_RATE, group="reward"
    )
    discriminator_epochs: int = config_field(
        1,
        "Passes of the discriminator over the texts of an iteration",
        minimum=1,
        maximum=MAX_EPOCHS,
        group="reward",
    )
    discriminator_warmup: int = config_field(
        0, "First iterations in which only discriminator and critic learn", minimum=0, group="reward"
    )
    discriminator_every: int = config_field(
        1, "Train the discriminator in every n-th iteration, from the first on", minimum=1, group="reward"
    )
    discriminator_accuracy: float | None = config_field(
        None,
        "Train the discriminator only in iterations that begin with an accuracy of at most this; default: in all",
        minimum=0,
        maximum=1,
        group="reward",
    )
    discriminator_replay: int = config_field(
        0,
        "Also train the discriminator on texts and references of this many earlier iterations, drawn uniformly",
        minimum=0,
        group="reward",
    )
    gradient_penalty: float = config_field(
        0.0,
        "Weight γ of the R1 penalty, half the squared gradient of the logit of references by their embeddings",
        minimum=0,
        maximum=MAX_COEFFICIENT,
        group="reward",
    )
    label_smoothing: float = config_field(
        0.0,
        "Label smoothing s of the discriminator, whose labels are s/2 and 1−s/2",
        minimum=0,
        maximum=1,
        group="reward",
    )
    reward_form: Literal["logit", "gail", "probability"] = config_field(
        "logit", "Reward from the logit: the logit itself, −log(1−D), or D", group="reward"
    )
    reward_clip: float | None = config_field(
        None, "Clip logits to [−c, c] before they become rewards; default: unlimited", above=0, group="reward"
    )
    normalize_reward: bool = config_field(
        False, "Shift and scale the discriminator's rewards of an iteration to mean 0 and std 1", group="reward"
    )
    reference_baseline: bool = config_field(
        False, "Subtract from a text's reward the discriminator's reward of the reference of its prompt", group="reward"
    )
    positive_only: bool = config_field(
        False, "Take as experts only examples with label 1, such as IMDB's positive reviews", group="reward"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.baseline != "none":
            raise ValueError(
                f"baseline={self.baseline!r} subtracts a reward of the environment, but the policy learns only from the"
                ' rewards of the discriminator; use baseline="none", or reference_baseline'
            )
        if self.reference_baseline and (self.positive_only or self.discriminator_level == "token"):
            other = "positive_only" if self.positive_only else 'discriminator_level="token"'
            raise ValueError(
                f"reference_baseline needs exactly one discriminator reward per reference, which {other} does not give;"
                " leave one of them out"
            )
