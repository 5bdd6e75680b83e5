"""Generation with a decoder-only model.

B texts, L columns that the decoder has read, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tril_gym.models.architecture import body_of
from tril_gym.models.decoders import AttentionMask, Decoder, NextTokenOutput, position_ids
from tril_gym.models.kernels import accepts_4d_masks
from tril_gym.models.kv_cache import Rows, join_caches, keeps_every_column, preallocated_cache, select_rows
from tril_gym.models.lm_head import Head

# Overhead of one more forward pass, in columns of a text that are read in the same time, by type of device.
PASS_OVERHEAD = {"cpu": 128}
DEFAULT_PASS_OVERHEAD = 8_192


def group_by_length(lengths: Sequence[int], group_overhead: int) -> list[list[int]]:
    """Partition texts into groups of similar length; of 1, 2, 4 and 8 groups, take the number of least cost.

    Args:
        lengths: columns of each text; in its group, it costs as many as the longest has.
        group_overhead: cost of each group, in columns.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)

    def partition(groups: int) -> list[list[int]]:
        bounds = [len(order) * i // groups for i in range(groups + 1)]
        return [order[begin:end] for begin, end in pairwise(bounds) if begin < end]

    def cost(groups: list[list[int]]) -> int:
        return sum(len(group) * lengths[group[-1]] + group_overhead for group in groups)

    return min((partition(groups) for groups in (1, 2, 4, 8)), key=cost)


class CausalDecoder(Decoder):
    """Caches keys and values of everything read; one new column a call.

    The first pass reads texts in groups of similar length, so that little padding is read.
    """

    def __init__(self, model: Any, head: Head | None, ids: Tensor, mask: Tensor, *, rows_leave: bool = True) -> None:
        self.model, self.head, self._rows_leave = model, head, rows_leave
        self.mask, self.cache = AttentionMask(mask), preallocated_cache(model.config)
        self._keeps_every_column = keeps_every_column(self.cache)
        positions = position_ids(mask)
        self.next_positions = positions[:, -1:] + 1  # (B, 1)
        lengths = mask.sum(1).tolist()
        overhead = PASS_OVERHEAD.get(ids.device.type, DEFAULT_PASS_OVERHEAD)
        groups = group_by_length(lengths, overhead) if self._keeps_every_column else []
        if len(groups) < 2:
            self.output = self._forward(ids, self.mask.as_2d(), positions, self.cache)
            return
        outputs, caches = [], []
        for group in groups:
            rows, width = torch.tensor(group, device=ids.device), max(lengths[row] for row in group)
            cache, here = preallocated_cache(model.config), (rows, slice(mask.shape[1] - width, None))
            outputs.append((rows, self._forward(ids[here], AttentionMask(mask[here]).as_2d(), positions[here], cache)))
            caches.append((rows, cache))
        self.cache, self.output = join_caches(model.config, caches), NextTokenOutput.join(outputs)

    @property
    def can_be_compiled(self) -> bool:
        """Whether a compiled pass can take over: the cache keeps every column, and masks reach the attention as is."""
        return self._keeps_every_column and accepts_4d_masks(self.model)

    def _forward(self, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: Any) -> NextTokenOutput:
        """Read some columns, which are added to the cache."""
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            "past_key_values": cache,
            "use_cache": True,
        }
        if self.head is None:
            return NextTokenOutput(self.model(**inputs, logits_to_keep=1).logits[:, -1], None)
        output = body_of(self.model).forward(**inputs)  # `forward`: not the one compiled by `compile_bodies`
        state = output.last_hidden_state[:, -1]
        return NextTokenOutput(self.head(state), state)

    def append(self, tokens: Tensor, is_written: Tensor | None = None) -> NextTokenOutput:
        """Add a column."""
        self.mask.append(is_written)
        positions = self.next_positions
        self.next_positions = positions + (1 if is_written is None else is_written.unsqueeze(1))
        mask = self.mask.for_single_query(self.model, keeps_every_column=self._keeps_every_column)
        self.output = self._forward(tokens.unsqueeze(1), mask, positions, self.cache)
        return self.output

    def batch_size_for(self, texts: int) -> int:
        """Return how many rows are needed for so many texts."""
        return texts if self._rows_leave else len(self.mask.mask)

    def select_rows(self, rows: Rows) -> None:
        """Keep these rows only."""
        select_rows(self.cache, rows, self.mask.select_rows(rows, trim=self._keeps_every_column))
        self.next_positions = self.next_positions[rows]
