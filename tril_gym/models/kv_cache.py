"""Keys and values of the texts that a model is writing, in memory that is set aside ahead.

The caches of `transformers` copy everything they hold for every new token; these copy it once in a while.

B texts, H heads, L columns, D numbers of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache

Rows = Tensor | slice  # indices of texts, or the first so many: `slice(n)`, for which nothing is copied
STEP = 64  # columns set aside beyond those that are needed


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values, (B, H, L, D) each.

    What comes first is held as it is; from then on they are a part of memory for more: its first B texts, and L columns
    behind those that have left.
    """

    def __init__(self) -> None:
        super().__init__()
        self._memory: tuple[Tensor, Tensor] | None = None
        self._begin = 0  # the first column of it that is held
        self._is_own = False  # what is held may be changed in place: it is no longer what the model has given

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add columns; returns all that there are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        if self._memory is None or self._memory[0].shape[-2] < self._begin + end:
            keys, values = (_memory_like(old, end) for old in self._held())
            for new, old in zip((keys, values), self._held(), strict=True):
                new[..., :begin, :] = old
            self._memory, self._begin, self._is_own = (keys, values), 0, True
        self._hold(len(key_states), end)
        for held, states in zip(self._held(), (key_states, value_states), strict=True):
            held[..., begin:, :] = states
        return self._held()

    def _held(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def _hold(self, texts: int, columns: int) -> None:
        assert self._memory is not None
        here = slice(self._begin, self._begin + columns)
        self.keys, self.values = (memory[:texts, :, here] for memory in self._memory)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these texts only."""
        self.keep(indices, _moves(indices), 0)

    def keep(self, rows: Rows, moves: Tensor | None, lead: int) -> None:
        """Keep these texts only, without the first `lead` columns.

        Only those that take another's place are copied: `moves` of the new rows; None: none does.
        """
        if self.get_seq_length() == 0:
            return
        if isinstance(rows, slice):
            self.keys, self.values = (held[rows, :, lead:] for held in self._held())
            self._begin += lead
        elif self._is_own:
            assert moves is not None
            for held in self._held():
                held.index_copy_(0, moves, held.index_select(0, rows[moves]))
            self.keys, self.values = (held[: len(rows), :, lead:] for held in self._held())
            self._begin += lead
        else:
            self.keys, self.values = (held[:, :, lead:].index_select(0, rows) for held in self._held())
            self._is_own = True

    def join(self, parts: Sequence[tuple[Tensor, Any]]) -> None:
        """Take over the texts of other layers; which rows they become stands beside them.

        Their columns come to stand on the right, and in front of the shorter ones 0.
        """
        first, texts = parts[0][1], sum(len(rows) for rows, _ in parts)
        columns = max(layer.get_seq_length() for _, layer in parts)
        self.lazy_initialization(first.keys, first.values)
        self._memory = _memory_like(first.keys, columns, texts), _memory_like(first.values, columns, texts)
        self._is_own = True
        self._hold(texts, columns)
        for rows, layer in parts:
            gap = columns - layer.get_seq_length()
            for held, states in zip(self._held(), (layer.keys, layer.values), strict=True):
                held[:, :, :gap].index_fill_(0, rows, 0.0)
                held[:, :, gap:].index_copy_(0, rows, states)


class PromptLayer(PreallocatedLayer):
    """One layer's keys and values of what was encoded, which come once and are read for every token.

    They are laid out head by head, as `attend` reads them; else every pass would lay them out anew.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take them up; returns them."""
        return super().update(key_states.contiguous(), value_states.contiguous(), *args, **kwargs)


def _memory_like(states: Tensor, columns: int, texts: int | None = None) -> Tensor:
    """Memory for so many columns, and for more; by default for as many texts."""
    B, H, _, D = states.shape  # noqa: N806
    return states.new_empty((B if texts is None else texts, H, columns + STEP, D))


def _moves(rows: Tensor) -> Tensor:
    """The new rows in which another text stands than before."""
    return (rows != torch.arange(len(rows), device=rows.device)).nonzero().squeeze(1)


def preallocated_cache(config: Any, layer_type: type[PreallocatedLayer] = PreallocatedLayer) -> DynamicCache:
    """The cache that a decoder of this kind makes for itself, with layers of ours where one keeps every column."""
    cache = DynamicCache(config=config)
    cache.layers = [layer_type() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def preallocated_pair(config: Any) -> EncoderDecoderCache:
    """The same for an encoder-decoder: what the decoder wrote, and what it attends to in the prompt."""
    return EncoderDecoderCache(preallocated_cache(config), preallocated_cache(config, PromptLayer))


def keeps_every_column(cache: DynamicCache) -> bool:
    """Whether all its layers are of the growing kind; else columns cannot be moved in it."""
    return all(isinstance(layer, PreallocatedLayer) for layer in cache.layers)


def keep(cache: Any, rows: Rows, lead: int) -> None:
    """Keep these texts only, without the first `lead` columns: none, where the cache does not keep every column."""
    moves = None if isinstance(rows, slice) else _moves(rows)
    for layer in cache.layers:
        if isinstance(layer, PreallocatedLayer):
            layer.keep(rows, moves, lead)
        else:
            layer.batch_select_indices(torch.arange(rows.stop) if isinstance(rows, slice) else rows)


def joined(config: Any, parts: Sequence[tuple[Tensor, Any]]) -> Any:
    """One cache of the texts of several that keep every column, each with the rows that its texts become."""
    cache: Any = preallocated_cache(config)
    for number, layer in enumerate(cache.layers):
        layer.join([(rows, part.layers[number]) for rows, part in parts])
    return cache
