"""Experience: texts with the advantages, returns, old log-probabilities and old values of their tokens.

B texts, T new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tril_gym.models.texts import Texts


@dataclass(frozen=True, slots=True)
class Counts:
    """Number of tokens that each loss is averaged over."""

    learn: float
    learn_critic: float
    target: float

    def share(self, part: int, whole: int) -> Counts:
        """Return the average counts of `part` out of `whole` texts; dividing by them weighs all tokens alike."""
        return Counts(*(count * part / whole for count in (self.learn, self.learn_critic, self.target)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """B texts with tensors (B, T), in the policy's precision but at least float32."""

    texts: Texts
    old_logprobs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    learn: Tensor  # bool: tokens that the policy learns on
    learn_critic: Tensor  # bool: tokens that the critic learns on
    targets: Texts | None = None  # the same prompts with a reference each, for the target loss

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def counts(self) -> Counts:
        """Number of tokens of each loss."""
        target = 0 if self.targets is None else int(self.targets.lengths.sum())
        return Counts(int(self.learn.sum()), int(self.learn_critic.sum()), target)

    def part(self, rows: Tensor) -> Experience:
        """Return some of the texts, without columns that are padding in all of them."""
        texts = self.texts[rows].trimmed()
        width = texts.tokens.shape[1]
        return Experience(
            texts=texts,
            old_logprobs=self.old_logprobs[rows, :width],
            old_values=self.old_values[rows, :width],
            advantages=self.advantages[rows, :width],
            returns=self.returns[rows, :width],
            learn=self.learn[rows, :width],
            learn_critic=self.learn_critic[rows, :width],
            targets=None if self.targets is None else self.targets[rows].trimmed(),
        )

    def without_tokens_to_learn(self) -> Experience:
        """Return the same texts, none of whose tokens counts for a loss."""
        nothing, targets = torch.zeros_like(self.learn), self.targets
        if targets is not None:
            targets = targets.without_tokens()
        return replace(self, learn=nothing, learn_critic=nothing, targets=targets)

    def to(self, device: torch.device) -> Experience:
        """Return a copy on another device."""
        return Experience(
            texts=self.texts.to(device),
            old_logprobs=self.old_logprobs.to(device),
            old_values=self.old_values.to(device),
            advantages=self.advantages.to(device),
            returns=self.returns.to(device),
            learn=self.learn.to(device),
            learn_critic=self.learn_critic.to(device),
            targets=None if self.targets is None else self.targets.to(device),
        )
