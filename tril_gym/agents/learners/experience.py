"""What the losses read: texts with the advantages, returns and old figures of their tokens.

B texts, T new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tril_gym.models.texts import Texts


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens that each loss is a mean over, in a whole minibatch."""

    learn: float
    learn_critic: float
    target: float

    def share(self, part: int, whole: int) -> Counts:
        """Of `part` of `whole` texts, on average: divided by this, tokens of long and short texts weigh alike."""
        return Counts(*(count * part / whole for count in (self.learn, self.learn_critic, self.target)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """B texts; all else (B, T), float tensors in the policy's precision, at least float32."""

    texts: Texts
    old_logprobs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    learn: Tensor  # bool: tokens that teach the policy
    learn_critic: Tensor  # bool: tokens whose value the critic learns
    targets: Texts | None = None  # the same prompts with a reference each, where the policy learns these as well

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def counts(self) -> Counts:
        """How many tokens each loss has."""
        target = 0 if self.targets is None else int(self.targets.lengths.sum())
        return Counts(int(self.learn.sum()), int(self.learn_critic.sum()), target)

    def part(self, rows: Tensor) -> Experience:
        """Some texts, without the columns that none of them reaches."""
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

    def to(self, device: torch.device) -> Experience:
        """The same on another device."""
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
