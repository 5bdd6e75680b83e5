"""Importance weights for texts that were sampled by another program than the one that trains on them.

An inference server rounds differently from training, and its weights may be some steps older: it samples from μ,
and training starts from π_old. The policy gradient under π_old is that under μ with the weight π_old / μ, which is
truncated, since its variance has no bound. Ionides 2008, "Truncated Importance Sampling"; Yao et al. 2025, "Your
Efficient RL Framework Secretly Brings You Off-Policy RL Training".

B texts, T new tokens.
"""

from typing import Literal

import torch
from torch import Tensor

from tril_gym.functional.masked import select

Level = Literal["token", "sequence"]


@torch.no_grad()
def importance_weights(logprobs: Tensor, sampled: Tensor, wrote: Tensor, *, level: Level, cap: float) -> Tensor:
    """Return truncated importance weights: (B, T), 0 on tokens outside `wrote`.

        token:     w_t = min(C, π_old(y_t) / μ(y_t))
        sequence:  w_t = min(C, Π_s π_old(y_s) / μ(y_s)) for every t

    The first is biased where later tokens depend on earlier ones, and varies little; the second is unbiased but for its
    truncation, and varies with the length of the text.

    Args:
        logprobs: (B, T) log π_old(token) in nats, scored by the pass that training uses.
        sampled:  (B, T) log μ(token) in nats, as the sampler returned it; NaN where it did not, which counts as equal.
        wrote:    (B, T) bool: the tokens that were sampled.
        level:    of a token, or the product of a text's tokens.
        cap:      C, at least 1: the largest weight.
    """
    assert cap >= 1, cap
    is_known = wrote & ~sampled.isnan()
    ratios = select(logprobs, is_known) - select(sampled, is_known)  # (B, T) nats, 0 where unknown
    if level == "sequence":
        ratios = ratios.sum(1, keepdim=True).expand_as(ratios)
    return select(ratios.exp().clamp(max=cap), wrote)


@torch.no_grad()
def effective_sample_size(weights: Tensor, wrote: Tensor) -> Tensor:
    """Return the share of the tokens that their weights are worth, (Σ w)² / (n Σ w²): a scalar in [0, 1].

    1 where all weights are equal, 1/n where one token has all the weight. Kong 1992.
    """
    weights = select(weights, wrote)
    total = weights.square().sum() * wrote.sum()
    return torch.where(total > 0, weights.sum().square() / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)
