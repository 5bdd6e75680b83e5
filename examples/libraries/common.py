"""What the examples share: a network that embeds tokens, and the mean reward of the texts that a policy writes."""

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch
from torch import nn

import tril_gym  # noqa: F401  registers the environments


class AddOne(nn.Module):
    """Ids of an embedding from observations, in which -1 stands where there is no token."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return tokens.long() + 1


def token_network(columns: int, words: int, outputs: int) -> nn.Sequential:
    """Return a network of observations (…, columns) with an embedding of each column's token."""
    embedding = [AddOne(), nn.Embedding(words + 1, 8), nn.Flatten(start_dim=-2)]
    return nn.Sequential(*embedding, nn.Linear(8 * columns, 64), nn.Tanh(), nn.Linear(64, outputs))


def mean_reward(act: Callable[[np.ndarray], np.ndarray], *, texts: int = 512, seed: int = 1) -> float:
    """Return the mean reward of texts of which `act` writes the tokens: observations (n, 12) to actions (n,)."""
    envs = gym.make_vec("tril/Toy-v0", num_envs=texts, autoreset_mode="Disabled")  # ended rows wait for the others
    observations, _ = envs.reset(seed=seed)
    total, is_writing = 0.0, np.ones(texts, bool)
    while is_writing.any():
        observations, rewards, terminated, truncated, _ = envs.step(act(observations))
        total += float(rewards.sum())
        is_writing &= np.logical_not(terminated | truncated)
    return total / texts


def show(before: float, after: float) -> tuple[float, float]:
    """Print the mean rewards before and after training in the line that all examples end with; return them."""
    print(f"reward {before:.2f} -> {after:.2f}")
    return before, after
