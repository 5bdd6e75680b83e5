"""Divergences of two distributions of the next token, over the whole vocabulary.

B texts, T new tokens, V words. Tokens excluded by both, with −inf, count as 0.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from tril_gym.functional.losses import Count
from tril_gym.functional.masked import masked_mean

Divergence = Literal["forward", "reverse", "jsd"]


def _kl(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(first‖second) of log-probabilities: (…, V), (…, V) -> (…).

        Σ p log p/q − p + q

    Both sums are 1. With them no word adds less than 0, and where q = p the gradient is exactly 0, not rounding.
    """
    finite, p = torch.where(first.isfinite(), first - second, 0.0), first.exp()
    return (p * finite - p + second.exp()).sum(-1)


def token_divergences(logits: Tensor, teacher_logits: Tensor, *, form: Divergence, mix: float = 0.5) -> Tensor:
    """Return the divergence of a student's distribution and a teacher's, in nats: (…, V), (…, V) -> (…).

        forward  KL(p‖q)
        reverse  KL(q‖p)                            with p the teacher's, q the student's
        jsd      m KL(p‖M) + (1 − m) KL(q‖M),  M = m p + (1 − m) q

    Agarwal et al. 2024 (GKD), section 2: https://arxiv.org/abs/2306.13649

    Args:
        logits:         of the student, with gradient.
        teacher_logits: of the teacher.
        form:           which of them.
        mix:            m, of "jsd".
    """
    q, p = logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    if form == "forward":
        return _kl(p, q)
    if form == "reverse":
        return _kl(q, p)
    if form == "jsd":
        weights = torch.tensor([mix, 1 - mix], dtype=q.dtype, device=q.device).log()
        middle = torch.logaddexp(p + weights[0], q + weights[1])
        return mix * _kl(p, middle) + (1 - mix) * _kl(q, middle)
    raise ValueError(f"the divergence must be one of {', '.join(get_args(Divergence))}, got {form!r}; usual is jsd")


def divergence_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    learn: Tensor,
    *,
    form: Divergence,
    mix: float = 0.5,
    count: Count = None,
) -> Tensor:
    """Return the divergences averaged over tokens: a scalar; `learn` is (B, T), `count` the divisor."""
    return masked_mean(token_divergences(logits, teacher_logits, form=form, mix=mix), learn, count)
