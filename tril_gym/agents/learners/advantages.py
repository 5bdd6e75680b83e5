"""Estimators of advantages: with a critic by GAE, without one against the other texts of a group.

Each maps finished texts and the rewards of their tokens, less the KL penalty, to advantages and returns, (B, T).
Returns are a critic's targets; without one they are 0.

B texts, T new tokens.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.critic import value_after
from tril_gym.functional import group_advantages
from tril_gym.functional.masked import masked_whiten, select
from tril_gym.functional.returns import gae, segment_advantages

GroupAdvantage = Literal["leave_one_out", "centred", "standardised", "to_go", "whitened"]


class Advantages(Protocol):
    """Estimates advantages."""

    def __call__(self, trajectories: Trajectories, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """Return advantages and returns, both (B, T), 0 on padding.

        Args:
            trajectories: finished texts with values.
            rewards: (B, T) reward of each token, less the KL penalty.
        """


def no_advantages(trajectories: Trajectories, rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Return advantages and returns of 0, for losses of whole texts, which read their rewards."""
    return torch.zeros_like(rewards), torch.zeros_like(rewards)


def gae_advantages(
    trajectories: Trajectories, rewards: Tensor, *, gamma: float, gae_lambda: float, whiten: bool = False
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns by GAE; only texts that were cut off bootstrap from the value after their end.

    Args:
        trajectories: finished texts with values.
        rewards: (B, T) reward of each token, less the KL penalty.
        gamma: discount per token.
        gae_lambda: λ.
        whiten: standardise the advantages over the learned tokens.
    """
    values = trajectories.values
    assert values is not None, "add_reference_and_values first"
    after = value_after(values, trajectories.lengths)
    bootstrap = torch.where(trajectories.is_cut_off, after, torch.zeros_like(after)).double()
    found = gae(rewards, values[:, :-1], bootstrap, trajectories.is_token, gamma=gamma, gae_lambda=gae_lambda)
    return (masked_whiten(found[0], trajectories.learn), found[1]) if whiten else found


def rollout_advantages(trajectories: Trajectories, rewards: Tensor, *, every: int) -> tuple[Tensor, Tensor]:
    """Return advantages of segments of `every` tokens by values that rollouts estimated, and returns of 0."""
    values = trajectories.values
    assert values is not None, "values_by_rollouts first"
    return segment_advantages(rewards, values, trajectories.is_token, every=every), torch.zeros_like(rewards)


def text_rewards(trajectories: Trajectories, rewards: Tensor) -> Tensor:
    """Return the reward of each whole text: (B, T) -> (B,)."""
    return select(rewards, trajectories.is_token).sum(1)


def group_based(
    trajectories: Trajectories, rewards: Tensor, *, kind: GroupAdvantage, gamma: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return advantages without a critic, and returns of 0.

        leave_one_out  R less the mean of the others of the group             RLOO
        centred        R less the mean of the group                           Dr. GRPO
        standardised   the same, divided by the group's standard deviation    GRPO
        to_go          the discounted rewards from a token on                 REINFORCE, ReMax
        whitened       the same, whitened over the learned tokens             REINFORCE++

    Args:
        trajectories: finished texts.
        rewards: (B, T) reward of each token, less the KL penalty.
        kind: which of them; the first three give all tokens of a text the same advantage.
        gamma: discount per token of the last two.
    """
    is_token, learn = trajectories.is_token, trajectories.learn
    if kind == "to_go":
        found = group_advantages.rewards_to_go(rewards, is_token, gamma=gamma)
    elif kind == "whitened":
        found = group_advantages.whitened_rewards_to_go(rewards, is_token, learn, gamma=gamma)
    else:
        function = {
            "leave_one_out": group_advantages.leave_one_out,
            "centred": group_advantages.less_group_mean,
            "standardised": group_advantages.standardised,
        }[kind]
        found = function(text_rewards(trajectories, rewards), trajectories.groups).unsqueeze(1).expand_as(rewards)
    return select(found, is_token), torch.zeros_like(rewards)
