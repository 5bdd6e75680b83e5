"""The randomness of episodes: drawn before they are written, so that batching changes no text.

E episodes, T new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class EpisodeRandomness:
    """All randomness of E episodes. Each has its own, whatever batch it is in."""

    seeds: Tensor  # (E,) int64, of the environment's rows
    rollin_uniform: Tensor  # (E,) float64: a rollin where it is below rollin_prob
    switch: Tensor  # (E,) float64: where the rollin is cut
    rollin: Tensor  # (E, T) float64: one uniform per token
    rollout: Tensor  # (E, T) float64
    member: Tensor  # (E,) int64: which text of its group, from 0

    @staticmethod
    def draw(episodes: int, max_new_tokens: int, generator: torch.Generator) -> EpisodeRandomness:
        """Draw for E episodes of at most T tokens."""
        seeds = torch.randint(2**31, (episodes,), generator=generator)
        table = torch.rand((episodes, 2 + 2 * max_new_tokens), generator=generator, dtype=torch.float64)
        rollin_uniform, switch = table[:, 0], table[:, 1]
        rollin, rollout = table[:, 2 : 2 + max_new_tokens], table[:, 2 + max_new_tokens :]
        return EpisodeRandomness(seeds, rollin_uniform, switch, rollin, rollout, torch.zeros_like(seeds))

    @property
    def max_new_tokens(self) -> int:
        """T."""
        return self.rollout.shape[1]

    def grouped(self, size: int, *, share_rollin: bool) -> EpisodeRandomness:
        """Return the same with the seeds, and if asked for the rollins, of the first of each `size` episodes.

        Episodes of the same seed have the same prompt, in whatever batch they are written.
        """
        episodes = torch.arange(len(self))
        first = episodes // size * size
        shared = {"seeds": self.seeds[first], "member": episodes % size}
        if share_rollin:
            names = ("rollin_uniform", "switch", "rollin")
            shared |= {name: getattr(self, name)[first] for name in names}
        return replace(self, **shared)

    def __getitem__(self, rows: slice | np.ndarray) -> EpisodeRandomness:
        return EpisodeRandomness(*(getattr(self, field.name)[rows] for field in fields(self)))

    def __len__(self) -> int:
        return self.seeds.shape[0]
