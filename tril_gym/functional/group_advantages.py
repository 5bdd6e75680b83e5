"""Advantages without a critic: a text's reward against those of the other texts of its group.

A group is the texts of one prompt. Rewards of texts that cannot be compared, those of a group in which all are equal,
are no signal: their advantages are 0. Results do not depend on the order of groups, nor on that of their members.

B texts, T new tokens.
"""

import torch
from torch import Tensor

from tril_gym.functional.masked import masked_whiten
from tril_gym.functional.returns import gae

GRPO_EPSILON = 1e-4  # added to a group's standard deviation, as in TRL


def _sums(values: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each text the sum over its group and the group's size: (B,), (B,) ids -> (B,), (B,)."""
    assert values.shape == group.shape, (values.shape, group.shape)
    _, place = group.unique(return_inverse=True)
    table = values.new_zeros((len(values), 2)).index_add(0, place, torch.stack([values, torch.ones_like(values)], 1))
    sums, sizes = table[place].unbind(1)
    return sums, sizes


def are_tied(rewards: Tensor, others: Tensor) -> Tensor:
    """Return where rewards differ by no more than the rounding of sums over tokens, elementwise."""
    return torch.isclose(rewards, others, rtol=1e-9 if rewards.dtype == torch.float64 else 1e-6, atol=1e-12)


def has_signal(rewards: Tensor, group: Tensor) -> Tensor:
    """Return for each text whether the rewards of its group differ: (B,), (B,) ids -> (B,) bool."""
    _, place = group.unique(return_inverse=True)
    highest, lowest = (
        rewards.new_zeros(len(rewards)).scatter_reduce(0, place, rewards, how, include_self=False)[place]
        for how in ("amax", "amin")
    )
    return ~are_tied(highest, lowest)


def share_without_signal(rewards: Tensor, group: Tensor) -> float:
    """Return the share of the groups whose rewards are all equal, in [0, 1]."""
    kept = group[has_signal(rewards, group)].unique()
    return 1.0 - len(kept) / max(1, len(group.unique()))


def leave_one_out(rewards: Tensor, group: Tensor) -> Tensor:
    """Return RLOO's advantages: (B,), (B,) ids -> (B,).

        A_i = R_i − mean of R_j over the others of the group = k/(k − 1) (R_i − mean of the group)

    0 in a group of one, which has no others. Ahmadian et al. 2024: https://arxiv.org/abs/2402.14740

    Args:
        rewards: (B,) total reward of each text.
        group:   (B,) int64, equal for the texts of one prompt.
    """
    sums, sizes = _sums(rewards, group)
    others = (sums - rewards) / (sizes - 1).clamp(min=1)
    return torch.where(has_signal(rewards, group), rewards - others, 0.0)


def less_group_mean(rewards: Tensor, group: Tensor) -> Tensor:
    """Return Dr. GRPO's advantages, A = R − mean of the group: (B,), (B,) ids -> (B,).

    Liu et al. 2025, "Understanding R1-Zero-Like Training": https://arxiv.org/abs/2503.20783
    """
    sums, sizes = _sums(rewards, group)
    return torch.where(has_signal(rewards, group), rewards - sums / sizes, 0.0)


def standardised(rewards: Tensor, group: Tensor) -> Tensor:
    """Return GRPO's advantages: (B,), (B,) ids -> (B,).

        A_i = (R_i − mean) / (std + 1e-4),  std that of a sample: divided by k − 1

    Shao et al. 2024, section 4.1: https://arxiv.org/abs/2402.03300
    """
    centred = less_group_mean(rewards, group)
    squares, sizes = _sums(centred.square(), group)
    return centred / ((squares / (sizes - 1).clamp(min=1)).sqrt() + GRPO_EPSILON)


def rewards_to_go(rewards: Tensor, is_token: Tensor, *, gamma: float = 1.0) -> Tensor:
    """Return the discounted sum of the rewards from each token on: (B, T) -> (B, T), GAE with V = 0 and λ = 1."""
    nothing = torch.zeros_like(rewards)
    return gae(rewards, nothing, nothing[:, 0], is_token, gamma=gamma, gae_lambda=1.0)[0]


def whitened_rewards_to_go(rewards: Tensor, is_token: Tensor, learn: Tensor, *, gamma: float = 1.0) -> Tensor:
    """Return REINFORCE++'s advantages, rewards to go whitened over the learned tokens of the batch: (B, T).

    Hu 2025: https://arxiv.org/abs/2501.03262
    """
    return masked_whiten(rewards_to_go(rewards, is_token, gamma=gamma), learn)
