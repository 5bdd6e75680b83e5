"""Generation with an encoder-decoder model.

B texts, L columns that the decoder has read, V vocabulary, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tril_gym.models.architecture import infers_masks
from tril_gym.models.decoders import AttentionMask, Decoder, NextTokenOutput
from tril_gym.models.kv_cache import Rows, keeps_every_column, preallocated_pair, select_rows
from tril_gym.models.lm_head import Head


class EncodedPrompts:
    """Encoder states of (B, P) left-aligned prompts, which every pass of a decoder attends to."""

    def __init__(self, model: Any, head: Head | None, prompts: Tensor, is_prompt: Tensor) -> None:
        self.model, self.head, self._needs_masks = model, head, infers_masks(model.config)
        self.mask = AttentionMask(is_prompt, is_needed=self._needs_masks)
        # `forward`: not the one compiled by `compile_bodies`
        self.encoded = model.get_encoder().forward(input_ids=prompts, attention_mask=self.mask.as_2d())

    def decode(
        self, ids: Tensor, last: Tensor | int = -1, *, mask: Tensor | None = None, cache: Any = None
    ) -> NextTokenOutput:
        """Decode some columns and predict the token after the column `last` of each row: (B,), or one for all."""
        rows = slice(None) if isinstance(last, int) else torch.arange(len(last), device=last.device)
        settings = {"past_key_values": cache, "use_cache": cache is not None}
        if mask is None and cache is None and self._needs_masks:
            mask = torch.ones_like(ids)
        if self.head is None:
            output = self.model(
                encoder_outputs=self.encoded,
                attention_mask=self.mask.as_2d(),
                decoder_input_ids=ids,
                decoder_attention_mask=mask,
                **settings,
            )
            return NextTokenOutput(output.logits[rows, last], None)
        output = self.model.get_decoder().forward(
            input_ids=ids,
            encoder_hidden_states=self.encoded.last_hidden_state,
            encoder_attention_mask=self.mask.as_2d(),
            attention_mask=mask,
            **settings,
        )
        state = output.last_hidden_state[rows, last]
        return NextTokenOutput(self.head(state), state)

    def select_rows(self, rows: Rows) -> None:
        """Keep these rows only."""
        self.mask.select_rows(rows)
        self.encoded.last_hidden_state = self.encoded.last_hidden_state[rows]


class CachedDecoder(Decoder):
    """Right-aligned rows, which all write in the same column, so that keys and values can be cached."""

    def __init__(self, prompts: EncodedPrompts, ids: Tensor, mask: Tensor, *, rows_leave: bool = True) -> None:
        self.prompts, self.mask, self.cache = prompts, AttentionMask(mask), preallocated_pair(prompts.model.config)
        self._rows_leave = rows_leave
        self._keeps_every_column = keeps_every_column(self.cache.self_attention_cache)
        self.output = prompts.decode(ids, mask=self.mask.as_2d(), cache=self.cache)

    def append(self, tokens: Tensor, is_written: Tensor | None = None) -> NextTokenOutput:
        """Add a column."""
        self.mask.append(is_written)
        mask = self.mask.for_single_query(self.prompts.model, keeps_every_column=self._keeps_every_column)
        self.output = self.prompts.decode(tokens.unsqueeze(1), mask=mask, cache=self.cache)
        return self.output

    def batch_size_for(self, texts: int) -> int:
        """Return how many rows are needed for so many texts."""
        return texts if self._rows_leave else len(self.mask.mask)

    def select_rows(self, rows: Rows) -> None:
        """Keep these rows only."""
        self.prompts.select_rows(rows)
        dropped = self.mask.select_rows(rows, trim=self._keeps_every_column)
        select_rows(self.cache.self_attention_cache, rows, dropped)
        select_rows(self.cache.cross_attention_cache, rows, 0)
