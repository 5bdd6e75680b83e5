"""Losses in which a whole text is one action, on texts that may be of another policy: A-LoL and A*-PO.

Λ(y) = Σ_t log π(a_t|s_t), Δ = Λ − Λ_ref. Every loss is a sum over texts divided by `count`; see `losses`.

B texts, T new tokens.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from tril_gym.functional.losses import Count, clip_ratio, log_ratio
from tril_gym.functional.masked import mean_of_all, select
from tril_gym.functional.policy_losses import MAX_LOG_RATIO

Variant = Literal["ratio", "ref_free", "token_ratio", "kl"]


def positive_advantages(advantages: Tensor) -> Tensor:
    """Return the rows of the texts that A-LoL learns from, those with A > 0: (B,) -> (n,) int64."""
    return (advantages > 0).nonzero().squeeze(1)


def a_lol_loss(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    advantages: Tensor,
    learn: Tensor,
    *,
    variant: Variant,
    clip_range: float = 0.9,
    kl_coef: float = 0.0,
    count: Count = None,
) -> Tensor:
    """Return the loss of advantage-leftover-lunch RL: a scalar to minimise.

        ratio        −A sg[clip(ρ, 1 ± ε)] Λ,  ρ = e^Δ
        ref_free     −A Λ                                       weighted likelihood
        token_ratio  −A Σ_t sg[clip(ρ_t, 1 ± ε)] log π_t
        kl           −A Λ + β Δ                                 its gradient is that of ref_free with A − β

    Baheti et al. 2024, section 3.2: https://arxiv.org/abs/2305.14718

    Args:
        logprobs:     (B, T) log π(token) in training, with gradient.
        ref_logprobs: (B, T) under the reference policy.
        advantages:   (B,) R − V(x) of each text; the caller has dropped those that are not positive.
        learn:        (B, T) True on real tokens.
        variant:      which of them.
        clip_range:   ε.
        kl_coef:      β, read by "kl" only.
        count:        divisor; by default B.
    """
    moved, own = log_ratio(logprobs, ref_logprobs, learn), select(logprobs, learn)
    if variant == "ratio":
        weight = clip_ratio(moved.sum(1).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp(), clip_range)
        losses = -advantages * weight.detach() * own.sum(1)
    elif variant == "token_ratio":
        weight = clip_ratio(moved.exp(), clip_range).detach()
        losses = -advantages * (weight * own).sum(1)
    elif variant in ("ref_free", "kl"):
        losses = -advantages * own.sum(1) + (kl_coef if variant == "kl" else 0.0) * moved.sum(1)
    else:
        raise ValueError(f"the variant must be one of {', '.join(get_args(Variant))}, got {variant!r}; usual is ratio")
    return mean_of_all(losses, count)


def optimal_value(rewards: Tensor, *, beta: float) -> Tensor:
    """Return V* = β log mean e^{r/β}, estimated from texts of π_ref: (n, k) rewards of k texts each -> (n,).

    Brantley et al. 2025 (A*-PO): https://arxiv.org/abs/2505.20686. The mean for large β, the maximum for small.
    """
    k = rewards.shape[1]
    return beta * ((rewards / beta).logsumexp(1) - torch.tensor(float(k), dtype=rewards.dtype).log())


def a_star_loss(moved: Tensor, advantages: Tensor, *, beta: float, count: Count = None) -> Tensor:
    """Return A*-PO's squared error (β Δ − (r − V*))²: a scalar, 0 at π_ref e^{r/β} / Z.

    Brantley et al. 2025: https://arxiv.org/abs/2505.20686

    Args:
        moved:      (B,) Δ, in nats, with gradient.
        advantages: (B,) r − V* of each text.
        beta:       β, reward per nat.
        count:      divisor; by default B.
    """
    losses = (beta * moved - advantages).square()
    return mean_of_all(losses, count)
