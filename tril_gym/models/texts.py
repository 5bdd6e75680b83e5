"""Texts as tensors, as a model reads them.

Prompts are right-aligned and completions left-aligned, so that each text is contiguous. Padding has id 0 and is
recognised by its mask alone: no id has a special meaning.

B texts, P prompt tokens, T new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Texts:
    """B prompts and what stands after them. A mask is True on real tokens."""

    prompts: Tensor  # (B, P) int64, padded on the left
    is_prompt: Tensor  # (B, P) bool
    tokens: Tensor  # (B, T) int64, padded on the right
    is_token: Tensor  # (B, T) bool

    @staticmethod
    def of(prompts: Tensor, completions: Tensor) -> Texts:
        """From the observation's halves, (B, P) and (B, T), in which -1 marks an empty cell."""
        return Texts(prompts.clamp(min=0), prompts >= 0, completions.clamp(min=0), completions >= 0)

    @property
    def prompt_lengths(self) -> Tensor:
        """(B,) prompt tokens."""
        return self.is_prompt.sum(1)

    @property
    def lengths(self) -> Tensor:
        """(B,) tokens after the prompt, EOS counted."""
        return self.is_token.sum(1)

    def __len__(self) -> int:
        return self.prompts.shape[0]

    def __getitem__(self, rows: Tensor) -> Texts:
        return Texts(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device: torch.device | str) -> Texts:
        """The same texts on another device."""
        return Texts(*(getattr(self, field.name).to(device) for field in fields(self)))

    def trimmed(self) -> Texts:
        """Without the columns in which no text has a token: they cost time and say nothing."""
        width = max(1, int(self.lengths.max()))
        return replace(self.prompts_trimmed(), tokens=self.tokens[:, :width], is_token=self.is_token[:, :width])

    def without_last(self) -> Texts:
        """Without the last column: what is read to predict it."""
        return replace(self, tokens=self.tokens[:, :-1], is_token=self.is_token[:, :-1])

    def prompts_trimmed(self) -> Texts:
        """The same for the prompts' columns alone."""
        width = max(1, int(self.prompt_lengths.max()))
        return replace(self, prompts=self.prompts[:, -width:], is_prompt=self.is_prompt[:, -width:])
