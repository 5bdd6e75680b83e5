"""Caches of keys and values with memory allocated ahead.

The caches of `transformers` copy everything they hold for every new token; these copy once in many tokens.

B texts, H heads, L columns, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache

Rows = Tensor | slice  # indices of texts, or the first n: `slice(n)`, for which nothing is copied
STEP = 64  # columns allocated beyond those that are needed


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values, (B, H, L, D) each.

    The first states are held as the model gave them. From the second update on, keys and values are views of larger
    memory: of its first B texts, and of the L columns after those that have been dropped.
    """

    def __init__(self) -> None:
        super().__init__()
        self._memory: tuple[Tensor, Tensor] | None = None
        self._begin = 0  # first column of the memory that is in use
        self._is_own = False  # whether keys and values may be changed in place: they are not the model's own tensors

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add columns; return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        if self._memory is None or self._memory[0].shape[-2] < self._begin + end:
            keys, values = (_allocate_like(old, end) for old in self._held())
            for new, old in zip((keys, values), self._held(), strict=True):
                new[..., :begin, :] = old
            self._memory, self._begin, self._is_own = (keys, values), 0, True
        self._view_memory(len(key_states), end)
        for held, states in zip(self._held(), (key_states, value_states), strict=True):
            held[..., begin:, :] = states
        return self._held()

    def _held(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def _view_memory(self, texts: int, columns: int) -> None:
        assert self._memory is not None
        here = slice(self._begin, self._begin + columns)
        self.keys, self.values = (memory[:texts, :, here] for memory in self._memory)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these texts only."""
        self.select_rows(indices, _moved_rows(indices), 0)

    def select_rows(self, rows: Rows, moved: Tensor | None, lead: int) -> None:
        """Keep these texts only, and drop the first `lead` columns.

        Only texts that change their row are copied.

        Args:
            rows: the texts to keep, in their new order.
            moved: the new rows whose text changes; None if `rows` is a slice.
            lead: number of columns to drop.
        """
        if self.get_seq_length() == 0:
            return
        if isinstance(rows, slice):
            self.keys, self.values = (held[rows, :, lead:] for held in self._held())
            self._begin += lead
        elif self._is_own:
            assert moved is not None
            for held in self._held():
                held.index_copy_(0, moved, held.index_select(0, rows[moved]))
            self.keys, self.values = (held[: len(rows), :, lead:] for held in self._held())
            self._begin += lead
        else:
            self.keys, self.values = (held[:, :, lead:].index_select(0, rows) for held in self._held())
            self._is_own = True

    def join(self, parts: Sequence[tuple[Tensor, Any]]) -> None:
        """Take over the texts of other layers, each given with the rows that its texts get.

        Columns are right-aligned; those before a shorter layer's are filled with 0.
        """
        first, texts = parts[0][1], sum(len(rows) for rows, _ in parts)
        columns = max(layer.get_seq_length() for _, layer in parts)
        self.lazy_initialization(first.keys, first.values)
        self._memory = _allocate_like(first.keys, columns, texts), _allocate_like(first.values, columns, texts)
        self._is_own = True
        self._view_memory(texts, columns)
        for rows, layer in parts:
            gap = columns - layer.get_seq_length()
            for held, states in zip(self._held(), (layer.keys, layer.values), strict=True):
                held[:, :, :gap].index_fill_(0, rows, 0.0)
                held[:, :, gap:].index_copy_(0, rows, states)


class PromptLayer(PreallocatedLayer):
    """One layer's keys and values of the encoded prompts, which are computed once and read for every token.

    Stored contiguously, as `single_query_attention` reads them; else every pass would copy them.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store them; return them."""
        return super().update(key_states.contiguous(), value_states.contiguous(), *args, **kwargs)


def _allocate_like(states: Tensor, columns: int, texts: int | None = None) -> Tensor:
    """Return memory for so many columns and `STEP` more, by default for as many texts as there are."""
    B, H, _, D = states.shape  # noqa: N806
    return states.new_empty((B if texts is None else texts, H, columns + STEP, D))


def _moved_rows(rows: Tensor) -> Tensor:
    """Return the new rows whose text was in another row before."""
    return (rows != torch.arange(len(rows), device=rows.device)).nonzero().squeeze(1)


def preallocated_cache(config: Any) -> DynamicCache:
    """Return the cache that `transformers` makes for a decoder, with preallocated layers for the dynamic ones."""
    cache = DynamicCache(config=config)
    cache.layers = [PreallocatedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def preallocated_pair(config: Any) -> EncoderDecoderCache:
    """Return the caches of an encoder-decoder: of the decoder's own columns, and of the encoded prompt.

    A decoder with a sliding window (T5Gemma) attends to the whole prompt all the same.
    """
    prompt = DynamicCache(config=config)
    prompt.layers = [PromptLayer() for _ in prompt.layers]
    return EncoderDecoderCache(preallocated_cache(config), prompt)


def keeps_every_column(cache: DynamicCache) -> bool:
    """Return whether all layers are preallocated; others may drop columns, so that columns cannot be trimmed."""
    return all(isinstance(layer, PreallocatedLayer) for layer in cache.layers)


def select_rows(cache: Any, rows: Rows, lead: int) -> None:
    """Keep these texts of a cache only, and drop the first `lead` columns: 0 unless it keeps every column."""
    moved = None if isinstance(rows, slice) else _moved_rows(rows)
    for layer in cache.layers:
        if isinstance(layer, PreallocatedLayer):
            layer.select_rows(rows, moved, lead)
        else:
            # States of linear attention have no `batch_select_indices`.
            layer.reorder_cache(torch.arange(rows.stop) if isinstance(rows, slice) else rows)


def join_caches(config: Any, parts: Sequence[tuple[Tensor, Any]]) -> Any:
    """Join caches that keep every column, each given with the rows that its texts get."""
    cache: Any = preallocated_cache(config)
    for number, layer in enumerate(cache.layers):
        layer.join([(rows, part.layers[number]) for rows, part in parts])
    return cache
