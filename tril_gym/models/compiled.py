"""Generation by a compiled pass of a decoder-only model, over keys and values in memory of fixed size.

One pass that reads one column is compiled for each number of texts and of columns; on a GPU it is replayed as a CUDA
graph. To keep the number of sizes small, memory is allocated for the longest texts, and the batch is halved when half
of its texts have ended.

B texts, H heads, C columns of memory, D head size.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from tril_gym.models.architecture import body_of
from tril_gym.models.causal_decoder import CausalDecoder
from tril_gym.models.decoders import Decoder, NextTokenOutput
from tril_gym.models.kv_cache import Rows

COLUMNS_MULTIPLE = 64  # columns of memory are a multiple of it
MAX_SIZES = 256  # sizes that are compiled; torch's default limit is 8


class _FixedLayer(DynamicLayer):
    """One layer's keys and values, (B, H, C, D) each; a new column is written at `column` (1,).

    `transformers.cache_utils.StaticLayer` does not serve: in transformers 5.0 to 5.2 it writes at the `cache_position`
    that the model passes, later at a count of its own, and both are supported here.
    """

    def __init__(self, keys: Tensor, values: Tensor, column: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.column = keys, values, column
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write a column; return all columns, also the unused ones, which the mask excludes."""
        for memory, states in zip(self.held(), (key_states, value_states), strict=True):
            memory.index_copy_(2, self.column, states)
        return self.held()

    def held(self) -> tuple[Tensor, Tensor]:
        """Return keys and values."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values


class _Memory:
    """Keys and values of all layers, and the next column."""

    def __init__(self, like: Any, texts: int, columns: int) -> None:
        def empty(states: Tensor) -> Tensor:
            _, heads, _, width = states.shape
            memory = states.new_zeros((texts, heads, columns, width))
            torch._dynamo.mark_static_address(memory)  # required by CUDA graphs
            return memory

        first = like.layers[0].keys
        self.column = torch.zeros(1, dtype=torch.int64, device=first.device)
        self.layers = [_FixedLayer(empty(layer.keys), empty(layer.values), self.column) for layer in like.layers]
        self.cache = Cache(layers=list(self.layers))

    def fill(self, source: Any, rows: Rows, columns: int) -> None:
        """Copy the first columns of these rows of another cache."""
        for layer, other in zip(self.layers, source.layers, strict=True):
            for memory, states in zip(layer.held(), (other.keys, other.values), strict=True):
                memory[:, :, :columns] = states[:, :, :columns][rows]
                memory[:, :, columns:] = 0.0  # an earlier batch's NaN would not be masked: 0 · NaN is NaN
        self.column.fill_(columns)


class CompiledStep:
    """One model's compiled pass, and a pool of memory for it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        mode = "reduce-overhead" if next(model.parameters()).device.type == "cuda" else None
        self._pass = torch.compile(self._forward, dynamic=False, mode=mode)
        self._compiled_sizes: set[tuple[int, ...]] = set()
        self._pool: defaultdict[tuple[int, int], list[_Memory]] = defaultdict(list)

    def _forward(self, embedded: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        inputs = {"inputs_embeds": embedded, "attention_mask": mask, "position_ids": positions}
        output = body_of(self.model).forward(**inputs, past_key_values=cache, use_cache=True)
        return output.last_hidden_state[:, -1]  # type: ignore[no-any-return]

    def state(self, embedded: Tensor, mask: Tensor, positions: Tensor, memory: _Memory) -> Tensor:
        """Return (B, hidden) after one more column: embedded (B, 1, hidden), mask (B, 1, 1, C), positions (B, 1)."""
        size = tuple(mask.shape)
        if size in self._compiled_sizes:
            state: Tensor = self._pass(embedded, mask, positions, memory.cache)
        else:
            with torch._dynamo.config.patch(recompile_limit=MAX_SIZES):
                state = self._pass(embedded, mask, positions, memory.cache)
            self._compiled_sizes.add(size)
        memory.column += 1
        return state.clone() if state.is_cuda else state  # the next replay of a graph overwrites it

    def acquire(self, like: Any, texts: int, columns: int) -> _Memory:
        """Return memory of this size, which may contain an earlier batch's numbers."""
        pool = self._pool[texts, columns]
        return pool.pop() if pool else _Memory(like, texts, columns)

    def release(self, memory: _Memory) -> None:
        """Return memory to the pool."""
        texts, _, columns, _ = memory.layers[0].held()[0].shape
        self._pool[texts, columns].append(memory)


class CompiledDecoder(Decoder):
    """Continues the texts of another decoder with the compiled pass.

    Args:
        step: the compiled pass.
        first: has read the texts so far.
        max_length: tokens that any text of the environment may reach. Memory is allocated for them all, however short
            these texts are, as each size takes long to compile; twice as much where a short text begins beside a long
            one that is nearly finished.
    """

    def __init__(self, step: CompiledStep, first: CausalDecoder, max_length: int) -> None:
        assert first.head is not None
        self.step, self.head, self._embed = step, first.head, step.model.get_input_embeddings()
        mask = first.mask.mask
        texts, self._column = mask.shape
        self._columns = -(-max_length // COLUMNS_MULTIPLE) * COLUMNS_MULTIPLE
        self._memory = step.acquire(first.cache, texts, self._columns)
        self._memory.fill(first.cache, slice(None), self._column)
        self._mask = torch.nn.functional.pad(mask, (0, self._columns - self._column))
        self._positions, self.output = first.next_positions, first.output

    def append(self, tokens: Tensor, is_written: Tensor | None = None) -> NextTokenOutput:
        """Add a column."""
        if self._column == self._columns:
            self._move(slice(None), 2 * self._columns)
        self._mask[:, self._column] = True if is_written is None else is_written
        embedded, mask = self._embed(tokens.unsqueeze(1)), self._mask[:, None, None]
        state = self.step.state(embedded, mask, self._positions, self._memory)
        self._positions = self._positions + (1 if is_written is None else is_written.unsqueeze(1))
        self.output, self._column = NextTokenOutput(self.head(state), state), self._column + 1
        return self.output

    def batch_size_for(self, texts: int) -> int:
        """Return the smallest repeated half of the batch that holds the active texts."""
        rows = len(self._mask)
        while (half := -(-rows // 2)) >= texts and half < rows:
            rows = half
        return rows

    def select_rows(self, rows: Rows) -> None:
        """Keep these rows only, in smaller memory."""
        self._move(rows, self._columns)

    def _move(self, rows: Rows, columns: int) -> None:
        """Keep these rows only, in memory of so many columns."""
        mask = torch.nn.functional.pad(self._mask[rows], (0, columns - self._columns))
        memory = self.step.acquire(self._memory, len(mask), columns)
        memory.fill(self._memory, rows, self._column)
        self.step.release(self._memory)
        self._memory, self._mask, self._columns = memory, mask, columns
        self._positions = self._positions[rows]

    def close(self) -> None:
        """Return the memory to the pool."""
        self.step.release(self._memory)
