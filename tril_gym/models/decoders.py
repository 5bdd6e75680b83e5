"""Incremental generation with a language model of `transformers`: one forward pass a token, with the model's cache.

The families differ in what a pass is given (positions, masks, encoded prompts): see causal_decoder.py and
encoder_decoder.py, and compiled.py for a compiled one. backbone.py chooses.

B texts, L columns that the decoder has read, V vocabulary, D hidden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tril_gym.models.kernels import accepts_4d_masks
from tril_gym.models.kv_cache import Rows


@dataclass(frozen=True, slots=True)
class NextTokenOutput:
    """A model's prediction of the next token of each text."""

    logits: Tensor  # (B, V)
    state: Tensor | None  # (B, D) from which they are computed; None if the decoder does not know the model's head

    @staticmethod
    def join(parts: Sequence[tuple[Tensor, NextTokenOutput]]) -> NextTokenOutput:
        """Join the outputs of groups of texts, each given with the rows that its texts get."""
        order = torch.cat([rows for rows, _ in parts]).argsort()
        states = [output.state for _, output in parts if output.state is not None]
        return NextTokenOutput(
            torch.cat([output.logits for _, output in parts])[order], torch.cat(states)[order] if states else None
        )


@dataclass(frozen=True, slots=True)
class ReadingMode:
    """How texts are given to a model. The default is fastest; some models give right results only with others.

    `agents.actors.model_check` finds the mode of a model.
    """

    # What is kept between tokens: a cache whose rows leave with their texts; a cache of the whole batch, to its end; or
    # nothing, so that every token reads its whole text again.
    cache: Literal["rows", "batch", "none"] = "rows"
    # Whether all texts begin in the first column, without positions and mask: for models that ignore one of these.
    from_first_column: bool = False
    packs: bool = True  # whether texts may share rows, where a probe finds that they do not read each other


class Decoder(ABC):
    """A batch of texts that is being written, with the model's cache."""

    output: NextTokenOutput  # of the last pass, before which no rows were selected

    @abstractmethod
    def append(self, tokens: Tensor, is_written: Tensor | None = None) -> NextTokenOutput:
        """Append (B,) tokens to the rows where (B,) is True, by default all, and predict the next ones.

        The other rows keep their texts; their predictions are meaningless.
        """

    def batch_size_for(self, texts: int) -> int:
        """Return the batch size that the decoder keeps if only `texts` texts are active."""
        return texts

    @abstractmethod
    def select_rows(self, rows: Rows) -> None:
        """Keep these rows only, in this order. Rows that stay in place are cheapest; the first n cost nothing."""

    def close(self) -> None:  # noqa: B027  most hold nothing that is shared
        """Release memory that is shared with other decoders."""


class AttentionMask:
    """Attention mask (B, L) of the cached columns. If nothing is padded, models get None, which is faster.

    Args:
        mask: (B, L) bool.
        is_needed: whether a model gets its mask in any case.
    """

    def __init__(self, mask: Tensor, *, is_needed: bool = False) -> None:
        self.mask, self._is_needed = mask, is_needed
        self._is_full = bool(mask.all())

    def as_2d(self) -> Tensor | None:
        """Return (B, L) int64, as models of `transformers` take it."""
        return None if self._is_full and not self._is_needed else self.mask.long()

    def for_single_query(self, model: Any, *, keeps_every_column: bool) -> Tensor | None:
        """Return a mask for one query a text: (B, 1, 1, L) bool if the model takes it so, which saves it a conversion.

        A model whose cache drops columns must convert the mask itself.
        """
        if not (keeps_every_column and accepts_4d_masks(model)):
            return self.as_2d()
        return None if self._is_full else self.mask[:, None, None]

    def append(self, is_written: Tensor | None) -> None:
        """Add a column; None: of ones."""
        self._is_full = self._is_full and is_written is None
        column = self.mask.new_ones(len(self.mask)) if is_written is None else is_written
        self.mask = torch.cat([self.mask, column.unsqueeze(1)], dim=1)

    def select_rows(self, rows: Rows, *, trim: bool = False) -> int:
        """Keep these rows only; with `trim`, also drop the first columns that are now padding in every row.

        Returns:
            The number of columns dropped.
        """
        self.mask = self.mask[rows]
        if self._is_full:
            return 0
        lead = int(self.mask.any(0).long().argmax()) if trim else 0
        self.mask = self.mask[:, lead:]
        self._is_full = bool(self.mask.all())
        return lead


def position_ids(mask: Tensor) -> Tensor:
    """Return (B, L): 0 at the first real token of each row."""
    return (mask.cumsum(1) - 1).clamp(min=0)


class RereadingDecoder(Decoder):
    """Left-aligned rows of any lengths, without a cache: every pass reads each text from its first column.

    Slower than a cache. No mask is needed: padding is after the text, where the causal mask hides it.

    Args:
        read: maps ids (B, L) and the last column of each text (B,) to the prediction of its next token.
        ids: (B, L) int64.
        mask: (B, L) bool.
        select: called with the rows that are kept.
    """

    def __init__(
        self,
        read: Callable[[Tensor, Tensor], NextTokenOutput],
        ids: Tensor,
        mask: Tensor,
        *,
        select: Callable[[Rows], None] = lambda rows: None,
    ) -> None:
        self._read, self._select, self.ids = read, select, ids
        self._lengths = mask.sum(1)  # (B,)
        self.output = self._read(self.ids, self._lengths - 1)

    def append(self, tokens: Tensor, is_written: Tensor | None = None) -> NextTokenOutput:
        """Add a token to each row that is written."""
        is_written = torch.ones_like(tokens, dtype=torch.bool) if is_written is None else is_written
        if int(self._lengths[is_written].max()) == self.ids.shape[1]:
            self.ids = torch.cat([self.ids, torch.zeros_like(self.ids[:, :1])], dim=1)
        here = torch.arange(self.ids.shape[1], device=tokens.device) == self._lengths.unsqueeze(1)
        self.ids = torch.where(here & is_written.unsqueeze(1), tokens.unsqueeze(1), self.ids)
        self._lengths = self._lengths + is_written
        self.output = self._read(self.ids, self._lengths - 1)
        return self.output

    def select_rows(self, rows: Rows) -> None:
        """Keep these rows only."""
        self._select(rows)
        self.ids, self._lengths = self.ids[rows], self._lengths[rows]
