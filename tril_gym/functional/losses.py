"""The terms of the clipped actor-critic loss, and the diagnostics of an update.

Schulman et al. 2017, "Proximal Policy Optimization Algorithms": https://arxiv.org/abs/1707.06347

Every term is a mean over tokens, not over texts, and takes `count`: the number of tokens of the whole batch if it is
computed in parts, so that the parts add up to the whole (see `masked_mean`). A term without tokens is 0, with gradient
0. Values outside the mask may be anything, NaN included.

B texts, T new tokens; ρ = π(token) / π_old(token). As ρ ≤ 1 / π_old, it is finite for every token that was sampled.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tril_gym.functional.masked import masked_mean, select

Count = int | float | Tensor | None


def log_ratio(logprobs: Tensor, old_logprobs: Tensor, learn: Tensor) -> Tensor:
    """Return the logarithm of ρ = π / π_old, in nats: (B, T), 0 on tokens outside `learn`."""
    # Both are selected before the subtraction, or NaN outside the mask would reach the gradient.
    return select(logprobs, learn) - select(old_logprobs, learn)


def clip_ratio(ratio: Tensor, clip_range: float, clip_range_high: float | None = None) -> Tensor:
    """Return ratios, of any shape, clipped to [1−ε, 1+ε_high]; ε_high is ε where it is None."""
    return ratio.clamp(1 - clip_range, 1 + (clip_range if clip_range_high is None else clip_range_high))


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    learn: Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    weights: Tensor | None = None,
    count: Count = None,
) -> Tensor:
    """Return PPO's clipped surrogate, negated: a scalar to minimise.

        −mean min(ρ A, clip(ρ, 1−ε, 1+ε_high) A)

    Schulman et al. 2017, eq. 7; a clip of its own above 1: Yu et al. 2025 (DAPO), section 3.1:
    https://arxiv.org/abs/2503.14476

    Args:
        logprobs:     (B, T) log π(token) in training, with gradient.
        old_logprobs: (B, T) log π(token) at collection.
        advantages:   (B, T)
        learn:        (B, T) True on the tokens that the policy learns on.
        clip_range:   ε, half the width of the interval of ρ.
        clip_range_high: ε_high; by default ε.
        weights:      (B, T) of each token in the sum, see `policy_losses.length_weights`; by default 1.
        count:        divisor; by default the number of tokens in `learn`.
    """
    ratio = log_ratio(logprobs, old_logprobs, learn).exp()
    advantages = select(advantages, learn)
    clipped = clip_ratio(ratio, clip_range, clip_range_high)
    gain = torch.minimum(ratio * advantages, clipped * advantages)
    return -masked_mean(gain, learn, count, weights=weights)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    learn: Tensor,
    *,
    value_clip_range: float | None = None,
    count: Count = None,
) -> Tensor:
    """Return half the squared error of the critic: a scalar to minimise.

        ½ mean max((V − R)², (clip(V, V_old ± ε_v) − R)²)

    Without `value_clip_range` it is ½ mean (V − R)², and `old_values` is not read. The clip is in the units of the
    returns: with 0.2, a critic of returns around 10 hardly learns.

    Args:
        values:           (B, T) V(s_t) in training, with gradient.
        old_values:       (B, T) V(s_t) at collection.
        returns:          (B, T) the targets.
        learn:            (B, T) True on the tokens that the critic learns on.
        value_clip_range: ε_v, or None not to clip.
        count:            divisor; by default the number of tokens in `learn`.
    """
    values, returns = select(values, learn), select(returns, learn)
    error = (values - returns).square()
    if value_clip_range is not None:
        old_values = select(old_values, learn)
        clipped = values.clamp(old_values - value_clip_range, old_values + value_clip_range)
        error = torch.maximum(error, (clipped - returns).square())
    return 0.5 * masked_mean(error, learn, count)


def entropy_bonus(entropies: Tensor, learn: Tensor, *, count: Count = None) -> Tensor:
    """Return the mean entropy of the policy at the learned tokens, in nats: a scalar to maximise."""
    return masked_mean(entropies, learn, count)


def nll_loss(logprobs: Tensor, is_token: Tensor, *, count: Count = None) -> Tensor:
    """Return the negative log-likelihood per token of given texts, in nats: a scalar to minimise."""
    return -masked_mean(logprobs, is_token, count)


def discriminator_loss(
    expert_logits: Tensor,
    policy_logits: Tensor,
    *,
    label_smoothing: float = 0.0,
    counts: tuple[int, int] | None = None,
) -> Tensor:
    """Return the binary cross-entropy in nats, with label 1 for an expert's texts and 0 for the policy's: a scalar.

        −mean y log D + (1 − y) log(1 − D),  D = σ(logit)

    Ho and Ermon 2016, algorithm 1, with the labels exchanged: https://arxiv.org/abs/1606.03476

    Args:
        expert_logits:   (B,) of references, with gradient.
        policy_logits:   (B',) of the policy's texts, with gradient.
        label_smoothing: s; the labels are 1 − s/2 and s/2.
        counts:          numbers of logits of both classes, of which these are a part: the classes then weigh alike, as
                         of tokens they should, whose numbers differ. None: all logits do.
    """
    assert expert_logits.ndim == policy_logits.ndim == 1, (expert_logits.shape, policy_logits.shape)
    logits = torch.cat([expert_logits, policy_logits])
    labels = torch.cat([torch.ones_like(expert_logits), torch.zeros_like(policy_logits)])
    labels = labels * (1 - label_smoothing) + label_smoothing / 2
    if counts is None:
        return binary_cross_entropy_with_logits(logits, labels)
    losses = binary_cross_entropy_with_logits(logits, labels, reduction="none")
    expert, written = losses.split([len(expert_logits), len(policy_logits)])
    return 0.5 * (expert.sum() / max(1, counts[0]) + written.sum() / max(1, counts[1]))


def gradient_penalty(gradients: Tensor, *, count: int | None = None) -> Tensor:
    """Return the R1 penalty of a discriminator, before its weight γ: a scalar to minimise.

        ½ mean ‖∂ logit / ∂ e‖²

    Of logits of tokens, whose gradients would need a pass each, it is estimated from those of a text's Σ_t v_t logit_t
    with random signs v_t: E_v ‖∂ Σ_t v_t logit_t / ∂ e‖² = Σ_t ‖∂ logit_t / ∂ e‖².

    Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?", eq. 9, on real data:
    https://arxiv.org/abs/1801.04406

    Args:
        gradients: (B, L, D) of the logits of B texts of experts by the embeddings e of their L tokens, differentiable.
        count:     number of logits of the whole batch, of tokens; None: B.
    """
    assert gradients.ndim == 3, gradients.shape
    squared = gradients.square().sum(dim=(1, 2))
    return 0.5 * (squared.mean() if count is None else squared.sum() / max(1, count))


@torch.no_grad()
def approx_kl(logprobs: Tensor, old_logprobs: Tensor, learn: Tensor, *, count: Count = None) -> Tensor:
    """Return an estimate of KL(π_old‖π) in nats per token, never negative: a scalar.

        mean (ρ − 1) − log ρ

    Schulman 2020, k3: http://joschu.net/blog/kl-approx.html
    """
    moved = log_ratio(logprobs, old_logprobs, learn)
    return masked_mean(moved.expm1() - moved, learn, count)  # expm1: ρ − 1 would lose half the digits near ρ = 1


@torch.no_grad()
def clip_fraction(
    logprobs: Tensor,
    old_logprobs: Tensor,
    learn: Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    count: Count = None,
) -> Tensor:
    """Return the share of tokens whose ρ lies outside [1−ε, 1+ε_high]: a scalar. By default ε_high is ε."""
    outside = is_outside(log_ratio(logprobs, old_logprobs, learn), clip_range, clip_range_high)
    return masked_mean(outside.double(), learn, count)


def is_outside(log_ratios: Tensor, clip_range: float, clip_range_high: float | None = None) -> Tensor:
    """Return whether e^x lies outside [1−ε, 1+ε_high], of any shape. By default ε_high is ε."""
    moved = log_ratios.expm1()
    return (moved < -clip_range) | (moved > (clip_range if clip_range_high is None else clip_range_high))


@torch.no_grad()
def ratio_error(logprobs: Tensor, old_logprobs: Tensor, learn: Tensor) -> Tensor:
    """Return the largest |ρ − 1|: a scalar, 0 without tokens.

    Before the first update π is π_old, so anything but rounding means that sampling and scoring disagree.
    """
    error = log_ratio(logprobs, old_logprobs, learn).expm1().abs()
    return torch.cat([error.flatten(), error.new_zeros(1)]).max()


@torch.no_grad()
def sampling_error(logprobs: Tensor, sampled: Tensor, wrote: Tensor) -> tuple[float, float]:
    """Return the largest and the summed |log π(token) at scoring − log π(token) at sampling|, in nats.

    Args:
        logprobs: (B, T) scored before the first update.
        sampled:  (B, T) noted when the token was drawn.
        wrote:    (B, T) bool: the tokens to compare.
    """
    error = log_ratio(logprobs, sampled, wrote).abs()
    return (float(error.max()), float(error.sum())) if error.numel() else (0.0, 0.0)
