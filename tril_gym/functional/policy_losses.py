"""Policy losses beside PPO's: one-sided clips, ratios of whole texts, regression, and how tokens are averaged.

A loss is a sum over tokens, or texts, divided by `count`; see `losses`. B texts, T new tokens; ρ = π(token) / π_old.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from tril_gym.functional.kl import kl_terms
from tril_gym.functional.losses import Count, clip_ratio, is_outside, log_ratio
from tril_gym.functional.masked import masked_mean, select

LengthNorm = Literal["token", "text", "constant", "sum"]
MAX_LOG_RATIO = 20.0  # nats; e^20 is finite, and far beyond every clip


def length_weights(learn: Tensor, norm: LengthNorm, *, max_length: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the weight of each token in a sum that is divided by a number of tokens or texts: (B, T).

        "token"     1                divided by tokens: all alike, so long texts weigh more (DAPO)
        "text"      1 / length       divided by texts: the mean of the texts' means (GRPO)
        "constant"  1 / max_length   divided by texts: no length has an advantage (Dr. GRPO)
        "sum"       1                divided by texts: a text's log-probability is the sum of its tokens' (RLOO)

    Args:
        learn:      (B, T) True on the tokens that the policy learns on.
        norm:       which of them.
        max_length: T of the environment, in tokens.
        dtype:      of the weights.
    """
    ones = learn.to(dtype)
    if norm in ("token", "sum"):
        return ones
    if norm == "text":
        return ones / learn.sum(1, keepdim=True).clamp(min=1)
    if norm == "constant":
        return ones / max_length
    raise ValueError(f"length_norm must be one of {', '.join(get_args(LengthNorm))}, got {norm!r}; token is usual")


def cispo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    learn: Tensor,
    *,
    clip_range_high: float,
    weights: Tensor | None = None,
    count: Count = None,
) -> Tensor:
    """Return CISPO's loss: the weight is clipped, not the gradient, so that every token keeps one.

        −Σ_t w_t sg[min(ρ, 1 + ε_high)] A log π / count

    MiniMax 2025, section 3.1: https://arxiv.org/abs/2506.13585. Arguments as of `losses.policy_loss`.
    """
    weight = log_ratio(logprobs, old_logprobs, learn).exp().clamp(max=1 + clip_range_high).detach()
    gain = weight * select(advantages, learn) * select(logprobs, learn)
    return -masked_mean(gain, learn, count, weights=weights)


def shaped_loss(
    logprobs: Tensor,
    advantages: Tensor,
    learn: Tensor,
    *,
    shaping: float,
    weights: Tensor | None = None,
    count: Count = None,
) -> Tensor:
    """Return LUFFY's loss of texts that others wrote, whose probability there counts as 1: a scalar to minimise.

        −Σ_t w_t f(π(a_t|s_t)) A / count,  f(π) = π/(π + γ)

    Yan et al. 2025, section 3: https://arxiv.org/abs/2504.14945. The gradient by log π is A γπ/(π + γ)², largest at
    π = γ: tokens that the policy seldom writes are learned too. Nothing is clipped.

    Args:
        logprobs:   (B, T) log π(token) in training, with gradient.
        advantages: (B, T).
        learn:      (B, T) True on the tokens of given texts.
        shaping:    γ, a probability.
        weights:    (B, T) of the tokens; None: 1.
        count:      divisor.
    """
    shaped = torch.sigmoid(select(logprobs, learn) - math.log(shaping))  # π/(π + γ), in log space
    gain = shaped * select(advantages, learn)
    return -masked_mean(gain, learn, count, weights=weights)


def gspo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    learn: Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    count: Count = None,
) -> Tensor:
    """Return GSPO's loss, whose ratio is one of the whole text: a scalar to minimise.

        −Σ_texts min(s A, clip(s, 1−ε, 1+ε_high) A) / count,  s = exp(mean_t log ρ_t)

    Zheng et al. 2025, section 4.1: https://arxiv.org/abs/2507.18071

    Args:
        logprobs:        (B, T) log π(token) in training, with gradient.
        old_logprobs:    (B, T) log π(token) at collection.
        advantages:      (B, T) equal on all learned tokens of a text.
        learn:           (B, T) True on the tokens that the policy learns on.
        clip_range:      ε.
        clip_range_high: ε_high; by default ε.
        count:           divisor; by default the number of texts with tokens in `learn`.
    """
    lengths = learn.sum(1)
    has_tokens, divisor = lengths > 0, lengths.clamp(min=1)
    ratio = (log_ratio(logprobs, old_logprobs, learn).sum(1) / divisor).exp()
    advantage = select(advantages, learn).sum(1) / divisor
    gain = torch.minimum(ratio * advantage, clip_ratio(ratio, clip_range, clip_range_high) * advantage)
    return -masked_mean(gain, has_tokens, count)


@torch.no_grad()
def text_clip_fraction(
    logprobs: Tensor,
    old_logprobs: Tensor,
    learn: Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    count: Count = None,
) -> Tensor:
    """Return the share of texts whose ratio s, of `gspo_loss`, lies outside [1−ε, 1+ε_high]: a scalar."""
    lengths = learn.sum(1)
    means = log_ratio(logprobs, old_logprobs, learn).sum(1) / lengths.clamp(min=1)
    return masked_mean(is_outside(means, clip_range, clip_range_high), lengths > 0, count)


def apa_loss(
    logprobs: Tensor,
    anchor_logprobs: Tensor,
    advantages: Tensor,
    learn: Tensor,
    *,
    temperature: float,
    weights: Tensor | None = None,
    count: Count = None,
) -> Tensor:
    """Return APA's squared error of log π to its target log π_anchor + A/λ, averaged over tokens.

    Its minimum is π_anchor e^{A/λ} only where that sums to 1, as it does to first order in A/λ.
    Zhu et al. 2023: https://arxiv.org/abs/2306.02231

    Args:
        logprobs:        (B, T) log π(token) in training, with gradient.
        anchor_logprobs: (B, T) log-probability under the policy to stay close to: π_old, or π_ref.
        advantages:      (B, T)
        learn:           (B, T) True on the tokens that the policy learns on.
        temperature:     λ, in units of advantage: reward per nat.
        weights:         (B, T) of the tokens; None: 1.
        count:           divisor; by default the number of tokens in `learn`.
    """
    moved = log_ratio(logprobs, anchor_logprobs, learn)
    return masked_mean((moved - select(advantages, learn) / temperature).square(), learn, count, weights=weights)


def awr_loss(
    logprobs: Tensor,
    advantages: Tensor,
    learn: Tensor,
    *,
    temperature: float,
    weights: Tensor | None = None,
    count: Count = None,
) -> Tensor:
    """Return advantage-weighted regression, −mean log π e^{A/λ}, with exponents of at most 20: a scalar to minimise.

    Peng et al. 2019: https://arxiv.org/abs/1910.00177. Arguments as of `apa_loss`.
    """
    factor = (select(advantages, learn) / temperature).clamp(max=MAX_LOG_RATIO).exp()
    return -masked_mean(factor * select(logprobs, learn), learn, count, weights=weights)


def reference_kl_loss(
    logprobs: Tensor, ref_logprobs: Tensor, learn: Tensor, *, weights: Tensor | None = None, count: Count = None
) -> Tensor:
    """Return the KL to the reference policy by its k3 estimate, with gradient: GRPO's term, before its coefficient.

        Σ_t w_t (π_ref/π − 1 − log π_ref/π) / count

    Shao et al. 2024, eq. 4: https://arxiv.org/abs/2402.03300. Its gradient is that of the KL only where π = π_old.
    """
    terms = kl_terms(select(logprobs, learn), select(ref_logprobs, learn), estimator="k3")
    return masked_mean(terms, learn, count, weights=weights)
