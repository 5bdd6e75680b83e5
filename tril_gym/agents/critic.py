"""A critic: a language model's body with one number on top, the value of a text as it stands.

B texts, T new tokens, D hidden.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from tril_gym.agents.backbone import Backbone
from tril_gym.agents.decoding import at_least_float32
from tril_gym.agents.policy import LMPolicy
from tril_gym.agents.trajectories import Texts


class Critic(nn.Module):
    """V(s_t): what a text, cut just before token t, is still going to be paid.

    A network of its own that starts from the policy's weights; its last layer starts at zero, so that the first
    advantages are the returns themselves.
    """

    def __init__(self, policy: LMPolicy) -> None:
        super().__init__()
        self.backbone: Backbone = policy.backbone
        self.model = copy.deepcopy(policy.model).requires_grad_(True)
        embedding = policy.model.get_input_embeddings().weight
        width = getattr(policy.model.config, "hidden_size", embedding.shape[1])
        # Without its usual initialisation, which would draw from the global generator.
        self.head = nn.utils.skip_init(nn.Linear, width, 1, device=embedding.device, dtype=embedding.dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def active(self) -> AbstractContextManager[None]:
        """Within it the model computes as this critic; see `LMPolicy.active`."""
        return nullcontext()

    def forward(self, texts: Texts) -> Tensor:
        """(B, T + 1) values: before each token, and after the last column."""
        texts = texts.to(self.head.weight.device)
        return at_least_float32(self.head(self.backbone.hidden(self.model, texts)).squeeze(-1))


def value_after(values: Tensor, lengths: Tensor) -> Tensor:
    """(B,) of (B, T + 1): the value after the last real token of each text."""
    return torch.gather(values, 1, lengths.unsqueeze(1)).squeeze(1)


def new_critic(policy: LMPolicy, kind: str | None, name: str) -> Critic:
    """A critic that starts from a policy's weights."""
    return Critic(policy)
