"""Which of the texts of an iteration are learned from: groups with a signal, the best, pairs of accepted ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.functional.group_advantages import has_signal
from tril_gym.functional.rejection import accept, best_of, first_round_pairs, tournament_pairs
from tril_gym.functional.text_losses import positive_advantages


def with_signal(trajectories: Trajectories) -> Trajectories:
    """Return the groups whose texts were not all rewarded alike."""
    return trajectories[has_signal(trajectories.total_rewards, trajectories.groups).nonzero().squeeze(1)]


def best_texts(trajectories: Trajectories, count: int) -> Trajectories:
    """Return the best texts of each group, in new groups of as many."""
    rewards = trajectories.total_rewards.view(-1, trajectories.group_size)
    rows = [group * trajectories.group_size + best_of(row, count) for group, row in enumerate(rewards)]
    return _in_groups(trajectories, torch.cat(rows), count)


def accepted_pairs(
    trajectories: Trajectories,
    *,
    beta: float,
    want: int,
    generator: torch.Generator,
    pairing: Literal["first_round", "tournament"] = "first_round",
) -> Trajectories:
    """Return pairs of texts that rejection sampling accepted, in groups of two, the better one first.

    Args:
        trajectories: candidates, in groups.
        beta: see `accept`.
        want: texts to accept of each group.
        generator: source of all randomness.
        pairing: which of the accepted are compared; see `first_round_pairs` and `tournament_pairs`.
    """
    paired = first_round_pairs if pairing == "first_round" else tournament_pairs
    size, pairs = trajectories.group_size, []
    for group, rewards in enumerate(trajectories.total_rewards.view(-1, size)):
        draws = torch.rand((want, size), generator=generator, dtype=torch.float64)
        found = paired(accept(rewards, draws, beta=beta, want=want), rewards)
        pairs.append(group * size + found.flatten())
    return _in_groups(trajectories, torch.cat(pairs), 2)


def with_positive_rewards(trajectories: Trajectories) -> Trajectories:
    """Return the texts whose reward, less its baseline, is above 0."""
    return _in_groups(trajectories, positive_advantages(trajectories.total_rewards), 1)


def drawn_by_reward(trajectories: Trajectories, generator: torch.Generator) -> Trajectories:
    """Return as many texts, drawn with probabilities proportional to their rewards, which are above 0."""
    if not len(trajectories):
        return trajectories
    rows = torch.multinomial(trajectories.total_rewards, len(trajectories), replacement=True, generator=generator)
    return _in_groups(trajectories, rows, 1)


def _in_groups(trajectories: Trajectories, rows: Tensor, size: int) -> Trajectories:
    return replace(trajectories[rows], group=torch.arange(len(rows)) // size)
