"""Texts one after another in shared rows, so that a model reads little padding.

A decoder-only model that is told positions can read several texts in one row: each counts its positions from 0, and
`transformers` lets no token attend beyond the text that it belongs to. Texts of any lengths then meet in a minibatch,
and it costs about what its tokens cost.

B texts, P prompt tokens, T new tokens; R rows of W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tril_gym.models.texts import Texts

WIDTHS = (1, 2, 3, 4)  # widths of a row that are tried, in longest texts
WORTH = 0.9  # of the work of reading texts apart: above this, they are read apart


@dataclass(frozen=True, slots=True)
class Placement:
    """Where each of B texts stands."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]  # of its first token
    shape: tuple[int, int]  # R, W


@dataclass(frozen=True, slots=True)
class PackedTexts:
    """Texts in shared rows."""

    ids: Tensor  # (R, W) int64, 0 where nothing stands
    positions: Tensor  # (R, W) int64, of each token in its text; 0 where nothing stands
    states: Tensor  # (B, T + 1) int64: the cell, row by row, before each token and after the last

    def states_of(self, hidden: Tensor) -> Tensor:
        """From what stands in the cells, (R, W, D), what stands before each token: (B, T + 1, D)."""
        return hidden.flatten(0, 1)[self.states]


def place(lengths: Sequence[int], width: int) -> Placement:
    """First fit, the longest texts first: rows of `width` columns, none of which a text overlaps.

    Johnson 1973: it needs at most 11/9 of the fewest rows, and one more.
    """
    assert max(lengths) <= width, (lengths, width)
    room: list[int] = []
    rows, columns = [0] * len(lengths), [0] * len(lengths)
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        row = next((row for row, left in enumerate(room) if left >= lengths[text]), len(room))
        if row == len(room):
            room.append(width)
        rows[text], columns[text] = row, width - room[row]
        room[row] -= lengths[text]
    return Placement(tuple(rows), tuple(columns), (len(room), width))


def cost(shape: tuple[int, int], hidden_size: int) -> int:
    """What it costs a transformer to read (R, W), in arbitrary units.

    A column costs a layer 24 D² operations in its matrices, and 4 W D in attention to W columns.
    """
    rows, columns = shape
    return rows * columns * (6 * hidden_size + columns)


def pack(texts: Texts, hidden_size: int) -> PackedTexts | None:
    """Put texts in shared rows, or nowhere where that would not save a tenth of the work.

    Of the widths that rows may have, the one that costs least is taken: in wider rows less is padding, but attention
    takes longer.

    Args:
        texts: each with a prompt.
        hidden_size: D of the model that will read them.
    """
    is_real = torch.cat([texts.is_prompt, texts.is_token], dim=1)
    lengths, apart = is_real.sum(1), texts.prompts_trimmed().is_prompt.shape[1] + texts.tokens.shape[1]
    known = lengths.tolist()
    candidates = (place(known, max(known) * longest) for longest in WIDTHS)
    places = min(candidates, key=lambda places: cost(places.shape, hidden_size))
    rows, columns = places.shape
    worth_it = cost(places.shape, hidden_size) < WORTH * cost((len(texts), apart), hidden_size)
    if not worth_it or not bool(texts.is_prompt.any(1).all()):
        return None
    device = is_real.device
    first = torch.tensor(places.rows, device=device) * columns + torch.tensor(places.columns, device=device)  # (B,)
    within = (is_real.cumsum(1) - 1)[is_real]  # (N,) of all N tokens, text by text
    cells = first.repeat_interleave(lengths) + within
    ids, positions = (torch.zeros(rows * columns, dtype=torch.int64, device=device) for _ in range(2))
    ids[cells], positions[cells] = torch.cat([texts.prompts, texts.tokens], dim=1)[is_real], within
    before = torch.arange(texts.tokens.shape[1] + 1, device=device)  # tokens before a state
    before = torch.minimum(before, texts.lengths.unsqueeze(1))  # beyond a text's end: all of them
    states = (first + texts.prompt_lengths - 1).unsqueeze(1) + before
    return PackedTexts(ids.view(rows, columns), positions.view(rows, columns), states)


@torch.no_grad()
def supports_packing(model: Any) -> bool:
    """Whether a model reads a text in a shared row as if it stood there alone.

    Found by reading: the states of a text must not move by a bit when the text before it is another one.
    """
    device, embed = next(model.parameters()).device, model.get_input_embeddings()
    most = embed.weight.shape[0] - 1
    positions = torch.tensor([[0, 1, 0, 1]], device=device)

    def states(*before: int) -> Tensor:
        ids = torch.tensor([[*before, 2, 3]], device=device).clamp(max=most)
        output = model.base_model(inputs_embeds=embed(ids), position_ids=positions, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden[0, 2:]

    return torch.equal(states(0, 1), states(4, 5))
