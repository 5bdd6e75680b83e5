"""A decoder-only model writes by a compiled pass, over keys and values in memory of a fixed size.

What is compiled is one pass that reads one column, for each number of texts and of columns; on a GPU it is replayed as
a CUDA graph. So that there are few such sizes, memory is for the longest texts, and texts leave when half have ended.

B texts, H heads, C columns of memory, D numbers of a head.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from tril_gym.models.decoders import CausalDecoder, Decoder, Reading
from tril_gym.models.kernels import takes_masks_as_they_are
from tril_gym.models.kv_cache import Rows

ROUND = 64  # columns of memory are a multiple of it
MOST_SIZES = 256  # that are compiled; torch gives up after 8 unless it is told


class _FixedLayer(DynamicLayer):
    """One layer's keys and values, (B, H, C, D) each, where a new column is written at `column` (1,)."""

    def __init__(self, keys: Tensor, values: Tensor, column: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.column = keys, values, column
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write a column; returns all columns, also those in which nothing stands yet: their mask says so."""
        for memory, states in zip(self.held(), (key_states, value_states), strict=True):
            memory.index_copy_(2, self.column, states)
        return self.held()

    def held(self) -> tuple[Tensor, Tensor]:
        """Keys and values."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values


class _Memory:
    """Keys and values of all layers, and the column that is next."""

    def __init__(self, like: Any, texts: int, columns: int) -> None:
        def empty(states: Tensor) -> Tensor:
            _, heads, _, width = states.shape
            memory = states.new_zeros((texts, heads, columns, width))
            torch._dynamo.mark_static_address(memory)  # as CUDA graphs need it
            return memory

        first = like.layers[0].keys
        self.column = torch.zeros(1, dtype=torch.int64, device=first.device)
        self.layers = [_FixedLayer(empty(layer.keys), empty(layer.values), self.column) for layer in like.layers]
        self.cache = Cache(layers=list(self.layers))

    def fill(self, source: Any, rows: Rows, columns: int) -> None:
        """Take over the first columns of another cache, of these rows of it."""
        for layer, other in zip(self.layers, source.layers, strict=True):
            for memory, given in zip(layer.held(), (other.keys, other.values), strict=True):
                memory[:, :, :columns] = given[:, :, :columns][rows]
        self.column.fill_(columns)


class CompiledStep:
    """One model's compiled pass, and memory for it that is idle."""

    def __init__(self, model: Any) -> None:
        self.model = model
        mode = "reduce-overhead" if next(model.parameters()).device.type == "cuda" else None
        self._pass = torch.compile(self._read, dynamic=False, mode=mode)
        self._known: set[tuple[int, ...]] = set()  # sizes that are compiled
        self._idle: defaultdict[tuple[int, int], list[_Memory]] = defaultdict(list)

    def _read(self, embedded: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        given = {"inputs_embeds": embedded, "attention_mask": mask, "position_ids": positions}
        output = self.model.base_model.forward(**given, past_key_values=cache, use_cache=True)
        return output.last_hidden_state[:, -1]  # type: ignore[no-any-return]

    def state(self, embedded: Tensor, mask: Tensor, positions: Tensor, memory: _Memory) -> Tensor:
        """(B, hidden) after one more column: embedded (B, 1, hidden), mask (B, 1, 1, C), positions (B, 1)."""
        size = tuple(mask.shape)
        if size in self._known:
            state: Tensor = self._pass(embedded, mask, positions, memory.cache)
        else:
            with torch._dynamo.config.patch(recompile_limit=MOST_SIZES):
                state = self._pass(embedded, mask, positions, memory.cache)
            self._known.add(size)
        memory.column += 1
        return state.clone() if state.is_cuda else state  # the next replay of a graph writes to the same place

    def take(self, like: Any, texts: int, columns: int) -> _Memory:
        """Memory of this size, which may hold what another batch has left."""
        idle = self._idle[texts, columns]
        return idle.pop() if idle else _Memory(like, texts, columns)

    def give(self, memory: _Memory) -> None:
        """Let others have it."""
        texts, _, columns, _ = memory.layers[0].held()[0].shape
        self._idle[texts, columns].append(memory)

    def takes_over(self, decoder: Decoder) -> bool:
        """Whether its texts can be written on by this: it keeps every column, and masks reach the attention."""
        return isinstance(decoder, CausalDecoder) and decoder.keeps_all and takes_masks_as_they_are(self.model)


class CompiledDecoder(Decoder):
    """Writes on what another decoder has taken up.

    Args:
        step: the compiled pass.
        first: has read all that stands.
        longest: columns of any text of the environment. Memory is for so many, however long these texts are, as each
            size takes long to compile.
    """

    def __init__(self, step: CompiledStep, first: CausalDecoder, longest: int) -> None:
        assert first.head is not None
        self.step, self.head, self._embed = step, first.head, step.model.get_input_embeddings()
        texts, self._column = first.columns.mask.shape
        self._room = -(-longest // ROUND) * ROUND
        self._memory = step.take(first.cache, texts, self._room)
        self._memory.fill(first.cache, slice(None), self._column)
        self._mask = torch.nn.functional.pad(first.columns.mask, (0, self._room - self._column))
        self._positions, self._reading = first.next_positions, first.reading()

    def reading(self) -> Reading:
        """Of the last pass."""
        return self._reading

    def append(self, tokens: Tensor, is_written: Tensor | None = None) -> None:
        """One more column."""
        self._mask[:, self._column] = True if is_written is None else is_written
        embedded, mask = self._embed(tokens.unsqueeze(1)), self._mask[:, None, None]
        state = self.step.state(embedded, mask, self._positions, self._memory)
        self._positions = self._positions + (1 if is_written is None else is_written.unsqueeze(1))
        self._reading, self._column = Reading(self.head(state), state), self._column + 1

    def fits(self, texts: int) -> int:
        """Rows are halved, as often as the texts still fit."""
        rows = len(self._mask)
        while (half := -(-rows // 2)) >= texts and half < rows:
            rows = half
        return rows

    def keep(self, rows: Rows) -> None:
        """Go on with these rows only."""
        mask = self._mask[rows]
        smaller = self.step.take(self._memory, len(mask), self._room)
        smaller.fill(self._memory, rows, self._column)
        self.step.give(self._memory)
        self._memory, self._mask = smaller, mask
        self._positions, self._reading = self._positions[rows], self._reading.keep(rows)

    def close(self) -> None:
        """Give the memory back."""
        self.step.give(self._memory)
