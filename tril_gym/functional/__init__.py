"""The mathematics: pure functions of tensors and numbers. Imports torch only."""

from tril_gym.functional.importance import effective_sample_size, importance_weights
from tril_gym.functional.kl import kl_terms, nats_per_text
from tril_gym.functional.losses import (
    approx_kl,
    clip_fraction,
    discriminator_loss,
    entropy_bonus,
    gradient_penalty,
    nll_loss,
    policy_loss,
    value_loss,
)
from tril_gym.functional.masked import (
    explained_variance,
    masked_mean,
    masked_std,
    masked_sum,
    masked_var,
    masked_whiten,
)
from tril_gym.functional.returns import discriminator_rewards, gae, kl_penalised_rewards
from tril_gym.functional.sampling import Decoding
from tril_gym.functional.schedules import learning_rate_factor, linear

__all__ = [
    "Decoding",
    "approx_kl",
    "clip_fraction",
    "discriminator_loss",
    "discriminator_rewards",
    "effective_sample_size",
    "entropy_bonus",
    "explained_variance",
    "gae",
    "gradient_penalty",
    "importance_weights",
    "kl_penalised_rewards",
    "kl_terms",
    "learning_rate_factor",
    "linear",
    "masked_mean",
    "masked_std",
    "masked_sum",
    "masked_var",
    "masked_whiten",
    "nats_per_text",
    "nll_loss",
    "policy_loss",
    "value_loss",
]
