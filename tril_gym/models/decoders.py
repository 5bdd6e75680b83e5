"""How a language model of `transformers` writes on a batch of texts: one forward pass a token, with the model's cache.

The families differ in what a pass is given: positions, masks, what was encoded. backbone.py takes up the texts.

B texts, L columns that the decoder has read, V vocabulary, D hidden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tril_gym.models.kernels import takes_masks_as_they_are
from tril_gym.models.kv_cache import Rows, joined, keep, keeps_every_column, preallocated_cache, preallocated_pair
from tril_gym.models.lm_head import Head

# Columns of a text that are read in the time that another pass takes to begin, about, by the kind of device.
PASS_OVERHEAD = {"cpu": 128}
ON_OTHERS = 8_192


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model says of the next token after a pass."""

    logits: Tensor  # (B, V)
    state: Tensor | None  # (B, D) that they come from, where the decoder was given the model's head

    def keep(self, rows: Rows) -> Reading:
        """The same of these rows only."""
        return Reading(self.logits[rows], None if self.state is None else self.state[rows])

    @staticmethod
    def joined(parts: Sequence[tuple[Tensor, Reading]]) -> Reading:
        """One of several, each with the rows that its texts become."""

        def join(values: Sequence[Tensor]) -> Tensor:
            order = torch.cat([rows for rows, _ in parts]).argsort()
            return torch.cat(list(values))[order]

        states = [reading.state for _, reading in parts if reading.state is not None]
        return Reading(join([reading.logits for _, reading in parts]), join(states) if states else None)


class Decoder(ABC):
    """A batch of texts that is being written: holds the model's cache."""

    @abstractmethod
    def reading(self) -> Reading:
        """What the model says of the next token."""

    @abstractmethod
    def append(self, tokens: Tensor, is_written: Tensor | None = None) -> None:
        """Write (B,) tokens on the rows where (B,) is True, by default on all.

        The others stay as they are, without logits of worth.
        """

    def fits(self, texts: int) -> int:
        """The number of rows that it would go on with, were only so many texts still written."""
        return texts

    @abstractmethod
    def keep(self, rows: Rows) -> None:
        """Go on with these rows only, in this order; those that stay where they are cost least, the first nothing."""

    def close(self) -> None:  # noqa: B027  most have nothing to do
        """No more is written."""


class Columns:
    """In which cells of (B, L) something stands; where that is in all, a model is shown no mask, and does less."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self._is_full = bool(mask.all())

    def shown(self) -> Tensor | None:
        """(B, L) int64 as models take it."""
        return None if self._is_full else self.mask.long()

    def shown_to_one(self, model: Any, *, keeps_all: bool) -> Tensor | None:
        """The same for a single query: (B, 1, 1, L) True where it may look, which a model makes of the other itself.

        It must, where the model's cache does not keep every column.
        """
        if not (keeps_all and takes_masks_as_they_are(model)):
            return self.shown()
        return None if self._is_full else self.mask[:, None, None]

    def append(self, is_written: Tensor | None) -> None:
        """One more column; None: full."""
        self._is_full = self._is_full and is_written is None
        column = self.mask.new_ones(len(self.mask)) if is_written is None else is_written
        self.mask = torch.cat([self.mask, column.unsqueeze(1)], dim=1)

    def keep(self, rows: Rows, *, trims: bool = False) -> int:
        """Go on with these rows only; returns how many columns left in front, as nothing stood in them any more.

        None does, unless it `trims`.
        """
        self.mask = self.mask[rows]
        if self._is_full:
            return 0
        lead = int(self.mask.any(0).long().argmax()) if trims else 0
        self.mask = self.mask[:, lead:]
        self._is_full = bool(self.mask.all())
        return lead


def position_ids(mask: Tensor) -> Tensor:
    """(B, L): 0 at the first real token of each row."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def like_lengths(lengths: Sequence[int], cost_of_a_group: int) -> list[list[int]]:
    """Texts in groups of like lengths, of the numbers of groups that are tried the one with the least cost.

    Args:
        lengths: columns of each text; in its group, it costs as many as the longest has.
        cost_of_a_group: in columns.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)

    def parted(number: int) -> list[list[int]]:
        bounds = [len(order) * i // number for i in range(number + 1)]
        return [order[begin:end] for begin, end in pairwise(bounds) if begin < end]

    def cost(groups: list[list[int]]) -> int:
        return sum(len(group) * lengths[group[-1]] + cost_of_a_group for group in groups)

    return min((parted(number) for number in (1, 2, 4, 8)), key=cost)


class CausalDecoder(Decoder):
    """Keys and values of everything read so far; one new column a call.

    Texts are taken up in groups of like lengths, so that little padding is read.
    """

    def __init__(self, model: Any, head: Head | None, ids: Tensor, mask: Tensor) -> None:
        self.model, self.head, self.columns, self.cache = model, head, Columns(mask), preallocated_cache(model.config)
        self._embed, self.keeps_all = model.get_input_embeddings(), keeps_every_column(self.cache)
        positions = position_ids(mask)
        self.next_positions = positions[:, -1:] + 1  # (B, 1)
        lengths = mask.sum(1).tolist()
        cost = PASS_OVERHEAD.get(ids.device.type, ON_OTHERS)
        groups = like_lengths(lengths, cost) if self.keeps_all else []
        if len(groups) < 2:
            self._reading = self._read(ids, self.columns.shown(), positions, self.cache)
            return
        parts = []
        for group in groups:
            rows, width = torch.tensor(group, device=ids.device), max(lengths[row] for row in group)
            cache, here = preallocated_cache(model.config), (rows, slice(mask.shape[1] - width, None))
            reading = self._read(ids[here], Columns(mask[here]).shown(), positions[here], cache)
            parts.append((rows, reading, cache))
        self.cache = joined(model.config, [(rows, cache) for rows, _, cache in parts])
        self._reading = Reading.joined([(rows, reading) for rows, reading, _ in parts])

    def _read(self, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: Any) -> Reading:
        """One pass, which adds to the cache."""
        given = {
            "inputs_embeds": self._embed(ids),  # as GPT-2 takes some ids for padding where it is given no mask
            "attention_mask": mask,
            "position_ids": positions,
            "past_key_values": cache,
            "use_cache": True,
        }
        if self.head is None:
            return Reading(self.model(**given, logits_to_keep=1).logits[:, -1], None)
        output = self.model.base_model.forward(**given)  # not what `compile_bodies` has compiled
        state = output.last_hidden_state[:, -1]
        return Reading(self.head(state), state)

    def reading(self) -> Reading:
        """Of the last pass."""
        return self._reading

    def append(self, tokens: Tensor, is_written: Tensor | None = None) -> None:
        """One more column."""
        self.columns.append(is_written)
        positions = self.next_positions
        self.next_positions = positions + (1 if is_written is None else is_written.unsqueeze(1))
        mask = self.columns.shown_to_one(self.model, keeps_all=self.keeps_all)
        self._reading = self._read(tokens.unsqueeze(1), mask, positions, self.cache)

    def keep(self, rows: Rows) -> None:
        """Go on with these rows only."""
        keep(self.cache, rows, self.columns.keep(rows, trims=self.keeps_all))
        self.next_positions, self._reading = self.next_positions[rows], self._reading.keep(rows)


class EncodedPrompts:
    """What every step of a decoder needs of (B, P) prompts, which stand on the left of their columns."""

    def __init__(self, model: Any, head: Head | None, prompts: Tensor, is_prompt: Tensor) -> None:
        self.model, self.head, self.columns = model, head, Columns(is_prompt)
        # not what `compile_bodies` has compiled
        self.encoded = model.get_encoder().forward(input_ids=prompts, attention_mask=self.columns.shown())

    def read(self, ids: Tensor, last: Callable[[Tensor], Tensor], **more: Any) -> Reading:
        """Decode some columns; `last` finds in (B, L, …) what stands in each row's last one."""
        if self.head is None:
            output = self.model(
                encoder_outputs=self.encoded,
                attention_mask=self.columns.shown(),
                decoder_input_ids=ids,
                **_named(more),
            )
            return Reading(last(output.logits), None)
        output = self.model.get_decoder().forward(
            input_ids=ids,
            encoder_hidden_states=self.encoded.last_hidden_state,
            encoder_attention_mask=self.columns.shown(),
            **more,
        )
        state = last(output.last_hidden_state)
        return Reading(self.head(state), state)

    def keep(self, rows: Rows) -> None:
        """Go on with these rows only."""
        self.columns.keep(rows)
        self.encoded.last_hidden_state = self.encoded.last_hidden_state[rows]


def _named(more: dict[str, Any]) -> dict[str, Any]:
    """What the decoder calls its attention mask has another name in the whole model."""
    return {"decoder_attention_mask" if name == "attention_mask" else name: value for name, value in more.items()}


class CachedDecoder(Decoder):
    """All rows write in the same column, so that keys and values can be kept."""

    def __init__(self, prompts: EncodedPrompts, ids: Tensor, mask: Tensor) -> None:
        self.prompts, self.columns, self.cache = prompts, Columns(mask), preallocated_pair(prompts.model.config)
        self.keeps_all = keeps_every_column(self.cache.self_attention_cache)
        self._read(ids, self.columns.shown())

    def _read(self, ids: Tensor, mask: Tensor | None) -> None:
        self._reading = self.prompts.read(
            ids, lambda columns: columns[:, -1], attention_mask=mask, past_key_values=self.cache, use_cache=True
        )

    def reading(self) -> Reading:
        """Of the last pass."""
        return self._reading

    def append(self, tokens: Tensor, is_written: Tensor | None = None) -> None:
        """One more column."""
        self.columns.append(is_written)
        self._read(tokens.unsqueeze(1), self.columns.shown_to_one(self.prompts.model, keeps_all=self.keeps_all))

    def keep(self, rows: Rows) -> None:
        """Go on with these rows only."""
        self.prompts.keep(rows)
        keep(self.cache.self_attention_cache, rows, self.columns.keep(rows, trims=self.keeps_all))
        keep(self.cache.cross_attention_cache, rows, 0)
        self._reading = self._reading.keep(rows)


class AlignedDecoder(Decoder):
    """Rows of different lengths under absolute positions: every text is read again from its first column.

    Slower than a cache, and only met where a text is taken up in the middle beside others.
    """

    def __init__(self, prompts: EncodedPrompts, ids: Tensor, mask: Tensor) -> None:
        self.prompts, self.ids = prompts, ids
        self._lengths = mask.sum(1)  # (B,)
        self._reading: Reading | None = None  # of the texts as they stand

    def reading(self) -> Reading:
        """Reads all texts, where they have changed."""
        if self._reading is None:
            last = self._lengths - 1
            rows = torch.arange(len(last), device=last.device)
            # No mask of its own: what stands behind a row's last column is hidden from it anyway.
            self._reading = self.prompts.read(self.ids, lambda columns: columns[rows, last], use_cache=False)
        return self._reading

    def append(self, tokens: Tensor, is_written: Tensor | None = None) -> None:
        """One more column."""
        is_written = torch.ones_like(tokens, dtype=torch.bool) if is_written is None else is_written
        if int(self._lengths[is_written].max()) == self.ids.shape[1]:
            self.ids = torch.cat([self.ids, torch.zeros_like(self.ids[:, :1])], dim=1)
        here = torch.arange(self.ids.shape[1], device=tokens.device) == self._lengths.unsqueeze(1)
        self.ids = torch.where(here & is_written.unsqueeze(1), tokens.unsqueeze(1), self.ids)
        self._lengths, self._reading = self._lengths + is_written, None

    def keep(self, rows: Rows) -> None:
        """Go on with these rows only."""
        self.prompts.keep(rows)
        self.ids, self._lengths, self._reading = self.ids[rows], self._lengths[rows], None
