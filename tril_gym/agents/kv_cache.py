"""Keys and values of the texts that a model is writing, in memory that is set aside ahead.

The caches of `transformers` copy everything they hold for every new token; these copy it once in a while.

B texts, H heads, L columns, D numbers of a head.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache

STEP = 64  # columns set aside beyond those that are needed


class GrowingLayer(DynamicLayer):
    """One layer's keys and values, (B, H, L, D) each: the first L columns of memory for more."""

    def __init__(self) -> None:
        super().__init__()
        self._store: list[Tensor] = []  # keys and values, (B, H, room, D)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add columns; returns all that there are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        if not self._store or self._store[0].shape[-2] < end:
            self._make_room((key_states, value_states), begin, end + STEP)
        for store, new in zip(self._store, (key_states, value_states), strict=True):
            store[..., begin:end, :] = new
        return self._show(end)

    def _make_room(self, like: tuple[Tensor, Tensor], used: int, room: int) -> None:
        old = self._store
        self._store = [new.new_empty((*new.shape[:-2], room, new.shape[-1])) for new in like]
        for store, before in zip(self._store, old, strict=False):  # at first there are no old ones
            store[..., :used, :] = before[..., :used, :]

    def _show(self, columns: int) -> tuple[Tensor, Tensor]:
        keys, values = (store[..., :columns, :] for store in self._store)
        self.keys, self.values = keys, values
        return keys, values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these texts only."""
        columns = self.get_seq_length()
        self._store = [store.index_select(0, indices) for store in self._store]
        if self._store:
            self._show(columns)


def growing_cache(config: Any) -> DynamicCache:
    """The cache that a decoder of this kind makes for itself, with room ahead where a layer keeps every column."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def growing_pair(config: Any) -> EncoderDecoderCache:
    """The same for an encoder-decoder: what the decoder wrote, and what it attends to in the prompt."""
    return EncoderDecoderCache(growing_cache(config), DynamicCache(config=config))
