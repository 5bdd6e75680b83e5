"""Texts as tensors, as a model reads them.

Prompts are right-aligned and completions left-aligned, so that each text is contiguous. Padding has id 0 and is
recognised by its mask alone: no id has a special meaning.

B texts, P prompt tokens, T new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Texts:
    """B prompts, each with what has been written after it. A mask is True on real tokens."""

    prompts: Tensor  # (B, P) int64, padded on the left
    is_prompt: Tensor  # (B, P) bool
    tokens: Tensor  # (B, T) int64, padded on the right
    is_token: Tensor  # (B, T) bool

    @staticmethod
    def from_observations(observations: Tensor, max_prompt_length: int) -> Texts:
        """Convert observations (B, P + T), in which -1 marks an empty cell."""
        prompts, completions = observations[:, :max_prompt_length], observations[:, max_prompt_length:]
        return Texts(prompts.clamp(min=0), prompts >= 0, completions.clamp(min=0), completions >= 0)

    @staticmethod
    def from_ids(
        prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, max_new_tokens: int
    ) -> Texts:
        """Pad lists of ids: prompts to the length of the longest, completions to T tokens."""
        width = max(map(len, prompts))
        return Texts(*_padded(prompts, width, on_left=True), *_padded(completions, max_new_tokens, on_left=False))

    @staticmethod
    def cat(parts: Sequence[Texts]) -> Texts:
        """Concatenate texts of the same P and T."""
        return Texts(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Texts)))

    def with_completions(self, completions: Sequence[Sequence[int]]) -> Texts:
        """Return the same prompts with other completions, as lists of ids."""
        tokens, is_token = _padded(completions, self.tokens.shape[1], on_left=False)
        return replace(self, tokens=tokens, is_token=is_token)

    def prompt_ids(self, row: int) -> list[int]:
        """Return the ids of one prompt."""
        ids: list[int] = self.prompts[row][self.is_prompt[row]].tolist()
        return ids

    def completion_ids(self, row: int) -> list[int]:
        """Return the ids of one completion, as far as it is written."""
        ids: list[int] = self.tokens[row][self.is_token[row]].tolist()
        return ids

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
        """Return the same texts on another device."""
        return Texts(*(getattr(self, field.name).to(device) for field in fields(self)))

    def trimmed(self) -> Texts:
        """Drop the columns in which no text has a token: they cost time and change nothing."""
        width = max(1, int(self.lengths.max()))
        return replace(self.prompts_trimmed(), tokens=self.tokens[:, :width], is_token=self.is_token[:, :width])

    def prompts_trimmed(self) -> Texts:
        """Drop the columns in which no prompt has a token."""
        width = max(1, int(self.prompt_lengths.max()))
        return replace(self, prompts=self.prompts[:, -width:], is_prompt=self.is_prompt[:, -width:])

    def without_tokens(self) -> Texts:
        """Return the same prompts with empty completions."""
        return replace(self, is_token=torch.zeros_like(self.is_token))

    def without_last(self) -> Texts:
        """Drop the last token column: what is read to predict it."""
        return replace(self, tokens=self.tokens[:, :-1], is_token=self.is_token[:, :-1])


def _padded(rows: Sequence[Sequence[int]], width: int, *, on_left: bool) -> tuple[Tensor, Tensor]:
    """Pad rows of ids with 0 to a width; returns ids (B, width) and the mask of real tokens."""
    ids = torch.zeros((len(rows), width), dtype=torch.int64)
    is_real = torch.zeros((len(rows), width), dtype=torch.bool)
    for row, tokens in enumerate(rows):
        columns = slice(width - len(tokens), width) if on_left else slice(len(tokens))
        ids[row, columns] = torch.tensor(tokens, dtype=torch.int64)
        is_real[row, columns] = True
    return ids, is_real
