"""Experience: texts with the advantages, returns, old log-probabilities and old values of their tokens.

B texts, T new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from tril_gym.functional.group_advantages import are_tied
from tril_gym.models.texts import Texts


@dataclass(frozen=True, slots=True)
class Counts:
    """Number of tokens, texts or pairs that each loss is averaged over."""

    learn: float
    learn_critic: float
    target: float
    texts: float  # that have tokens to learn
    own: float  # tokens of `learn` that the policy wrote
    own_texts: float
    pairs: float  # of texts of one group
    preferences: float  # pairs whose rewards differ

    def share(self, part: int, whole: int) -> Counts:
        """Return the average counts of `part` out of `whole` texts; dividing by them weighs all tokens alike."""
        return Counts(*(getattr(self, field.name) * part / whole for field in fields(self)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """B texts with tensors (B, T), in the policy's precision but at least float32."""

    texts: Texts
    old_logprobs: Tensor
    ref_logprobs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    learn: Tensor  # bool: tokens that the policy learns on
    learn_critic: Tensor  # bool: tokens that the critic learns on
    rewards: Tensor  # (B,) of whole texts, less the KL penalty
    weights: Tensor | None = None  # of each token in the policy's loss; None: 1
    given: Tensor | None = None  # bool: those of `learn` in texts that others wrote; None: in none
    kl_coef: float = 0.0  # of a KL term in the loss
    group_size: int = 1  # neighbours that belong together; there are whole groups only
    targets: Texts | None = None  # the same prompts with a reference each, for the target loss

    @staticmethod
    def cat(parts: Sequence[Experience]) -> Experience:
        """Return the texts of several experiences of the same width, without targets."""
        cells: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts]) for name, _ in parts[0]._tensors()
        }
        return replace(parts[0], **cells, texts=Texts.cat([part.texts for part in parts]), targets=None)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def counts(self) -> Counts:
        """Number of tokens, texts and pairs of each loss."""
        target = 0 if self.targets is None else int(self.targets.lengths.sum())
        own, pairs = self.own, len(self) * (self.group_size - 1) / 2
        members = self.rewards.view(-1, self.group_size)
        preferences = int((~are_tied(members.unsqueeze(1), members.unsqueeze(2))).sum()) / 2
        return Counts(
            learn=int(self.learn.sum()),
            learn_critic=int(self.learn_critic.sum()),
            target=target,
            texts=int(self.learn.any(1).sum()),
            own=int(own.sum()),
            own_texts=int(own.any(1).sum()),
            pairs=pairs,
            preferences=preferences,
        )

    @property
    def own(self) -> Tensor:
        """(B, T) bool: tokens that the policy wrote and learns on."""
        return self.learn if self.given is None else self.learn & ~self.given

    @property
    def group(self) -> Tensor:
        """(B,) int64: the number of each text's group."""
        return torch.arange(len(self), device=self.rewards.device) // self.group_size

    def part(self, rows: Tensor) -> Experience:
        """Return some of the texts, whole groups, without columns that are padding in all of them."""
        texts = self.texts[rows].trimmed()
        width = texts.tokens.shape[1]
        cells: dict[str, Any] = {name: tensor[rows, :width] for name, tensor in self._tensors() if tensor.ndim == 2}
        targets = None if self.targets is None else self.targets[rows].trimmed()
        return replace(self, **cells, texts=texts, rewards=self.rewards[rows], targets=targets)

    def without_tokens_to_learn(self) -> Experience:
        """Return the same texts, none of whose tokens counts for a loss, and no pair."""
        nothing, targets = torch.zeros_like(self.learn), self.targets
        if targets is not None:
            targets = targets.without_tokens()
        given = None if self.given is None else nothing
        return replace(self, learn=nothing, learn_critic=nothing, given=given, targets=targets, group_size=1)

    def to(self, device: torch.device) -> Experience:
        """Return a copy on another device."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self._tensors()}
        targets = None if self.targets is None else self.targets.to(device)
        return replace(self, **moved, texts=self.texts.to(device), targets=targets)

    def _tensors(self) -> list[tuple[str, Tensor]]:
        found = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(name, value) for name, value in found if isinstance(value, Tensor)]
