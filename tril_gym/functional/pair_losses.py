"""Losses of pairs: two texts of one prompt, of which one is preferred or better rewarded.

Λ(y) = Σ_t log π(a_t|s_t) is the log-probability of what the policy wrote of a text, EOS counted, **summed**. Further
Δ = Λ − Λ_ref and D = Λ − Λ_old. A common beginning of both texts cancels.

Every loss is a sum over pairs divided by `count`, by default the number of pairs; see `losses`. B texts, T new tokens,
n pairs.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tril_gym.functional.losses import Count, clip_ratio
from tril_gym.functional.masked import mean_of_all, select
from tril_gym.functional.policy_losses import MAX_LOG_RATIO


def text_logprobs(logprobs: Tensor, learn: Tensor, *, per_token: bool = False) -> Tensor:
    """Return Λ of each text, or Λ per token: (B, T), (B, T) bool -> (B,)."""
    total = select(logprobs, learn).sum(1)
    return total / learn.sum(1).clamp(min=1) if per_token else total


def pairs_in_groups(group: Tensor) -> Tensor:
    """Return the rows of all pairs of texts of one group, the first with the lower row: (B,) ids -> (n, 2) int64."""
    same = group.unsqueeze(0) == group.unsqueeze(1)
    return torch.triu(same, diagonal=1).nonzero()


def dpo_loss(margins: Tensor, *, beta: float, label_smoothing: float = 0.0, count: Count = None) -> Tensor:
    """Return DPO's loss: a scalar, log 2 where π = π_ref.

        −(1 − s) log σ(h) − s log σ(−h),  h = β (Δ_w − Δ_l)

    Rafailov et al. 2023, eq. 7: https://arxiv.org/abs/2305.18290; the "sigmoid-norm" loss of RSO (eq. 8 there). TRL's
    `sigmoid_norm` is another one, divided by lengths.

    Args:
        margins:         (n,) Δ_w − Δ_l, in nats, with gradient.
        beta:            β, reward per nat.
        label_smoothing: s, the probability that a label is wrong.
        count:           divisor.
    """
    h = beta * margins
    return mean_of_all(-(1 - label_smoothing) * logsigmoid(h) - label_smoothing * logsigmoid(-h), count)


def ipo_loss(margins: Tensor, *, beta: float, count: Count = None) -> Tensor:
    """Return IPO's loss (Δ_w − Δ_l − 1/(2β))²: a scalar.

    Azar et al. 2023, eq. 17: https://arxiv.org/abs/2310.12036. The paper sums over tokens; TRL's `ipo` averages: give
    margins of `text_logprobs(..., per_token=True)` for that one.
    """
    return mean_of_all((margins - 1 / (2 * beta)).square(), count)


def hinge_loss(margins: Tensor, *, gamma: float, count: Count = None) -> Tensor:
    """Return the hinge max(0, 1 − γ m): a scalar.

    Liu et al. 2024 (RSO), eq. 9 with m = Λ_w − Λ_l, "hinge", eq. 10 with m = Δ_w − Δ_l, "hinge-norm":
    https://arxiv.org/abs/2309.06657
    """
    return mean_of_all((1 - gamma * margins).clamp(min=0), count)


def rebel_loss(moved: Tensor, gaps: Tensor, *, eta: float, count: Count = None) -> Tensor:
    """Return REBEL's squared error ((D − D') − η (r − r'))²: a scalar, 0 at π_old e^{ηr} / Z.

    Gao et al. 2024, algorithm 1, scaled by η² as in its code: https://arxiv.org/abs/2404.16767

    Args:
        moved: (n,) D − D', in nats, with gradient.
        gaps:  (n,) r − r', with the KL penalty.
        eta:   η, nats per reward: the step size.
        count: divisor.
    """
    return mean_of_all((moved - eta * gaps).square(), count)


def p3o_loss(
    first: Tensor, second: Tensor, gaps: Tensor, *, clip_range: float, clip: Literal["separate", "joint"], count: Count
) -> Tensor:
    """Return P3O's loss: a scalar to minimise. Ratios are computed in log space, and D is limited to ±20 nats.

        separate:  −½ Σ_{i≠j} min(sg[(r_i − r_j) ρ_j] ρ_i, sg[(r_i − r_j) ρ_j] clip(ρ_i, 1 ± ε)),  ρ = e^D
        joint:     −½ min(sg[(r₁ − r₂) ρ₁ρ₂] d, sg[(r₁ − r₂) ρ₁ρ₂] clip(d, ±ε)),  d = D₁ − D₂

    Wu et al. 2023, section 4.2: https://arxiv.org/abs/2310.00212. At π = π_old both have the unclipped gradient.

    Args:
        first:      (n,) D₁, in nats, with gradient.
        second:     (n,) D₂.
        gaps:       (n,) r₁ − r₂, with the KL penalty.
        clip_range: ε.
        clip:       whether the two texts are clipped apart or jointly.
        count:      divisor.
    """
    first, second = (moved.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO) for moved in (first, second))
    if clip == "joint":
        weight = (gaps * (first + second).exp()).detach()
        apart = first - second
        return mean_of_all(-0.5 * torch.minimum(weight * apart, weight * apart.clamp(-clip_range, clip_range)), count)
    total = torch.zeros_like(first)
    for own, other, gap in ((first, second, gaps), (second, first, -gaps)):
        weight, ratio = (gap * other.exp()).detach(), own.exp()
        total = total - 0.5 * torch.minimum(weight * ratio, weight * clip_ratio(ratio, clip_range))
    return mean_of_all(total, count)
