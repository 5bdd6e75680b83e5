"""Packing: several texts in one row, so that a model reads little padding.

A decoder-only model that takes positions can read several texts in one row: the positions of each start at 0, and
`transformers` masks attention between texts. A minibatch may then hold texts of any lengths, and costs about what its
tokens cost.

B texts, P prompt tokens, T new tokens; R rows of W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tril_gym.models.architecture import body_of
from tril_gym.models.texts import Texts

WIDTHS = (1, 2, 3, 4)  # row widths that are tried, as multiples of the longest text
MIN_SAVING = 0.1  # share of the cost of separate rows that packing must save, else texts are not packed


@dataclass(frozen=True, slots=True)
class Placement:
    """Row and first column of each of B texts."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    shape: tuple[int, int]  # R, W


@dataclass(frozen=True, slots=True)
class PackedTexts:
    """Texts in shared rows."""

    ids: Tensor  # (R, W) int64, 0 in empty cells
    positions: Tensor  # (R, W) int64, of each token in its text; 0 in empty cells
    states: Tensor  # (B, T + 1) int64: flat index of the cell before each token, and of the last token's

    def states_of(self, hidden: Tensor) -> Tensor:
        """Select the states before each token and after the last, (B, T + 1, D), from those of all cells, (R, W, D)."""
        return hidden.flatten(0, 1)[self.states]


def first_fit(lengths: Sequence[int], width: int) -> Placement:
    """Place texts in rows of `width` columns, the longest first, each in the first row with room for it.

    First-fit decreasing needs at most 11/9 of the optimal number of rows, and one more (Johnson 1973).
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
    """Return the cost of a transformer's pass over (R, W), in arbitrary units.

    Each column costs a layer 24 D² operations in its matrices, and 4 W D in attention to W columns.
    """
    rows, columns = shape
    return rows * columns * (6 * hidden_size + columns)


def pack(texts: Texts, hidden_size: int) -> PackedTexts | None:
    """Pack texts into the row width of least cost; return None if that saves less than `MIN_SAVING`.

    Wider rows have less padding, but attention in them costs more.

    Args:
        texts: each with a prompt.
        hidden_size: D of the model that will read them.
    """
    is_real = torch.cat([texts.is_prompt, texts.is_token], dim=1)
    lengths, apart = is_real.sum(1), texts.prompts_trimmed().is_prompt.shape[1] + texts.tokens.shape[1]
    known = lengths.tolist()
    candidates = (first_fit(known, max(known) * multiple) for multiple in WIDTHS)
    placement = min(candidates, key=lambda placement: cost(placement.shape, hidden_size))
    rows, columns = placement.shape
    limit = (1 - MIN_SAVING) * cost((len(texts), apart), hidden_size)
    if cost(placement.shape, hidden_size) >= limit or not bool(texts.is_prompt.any(1).all()):
        return None
    device = is_real.device
    first = torch.tensor(placement.rows, device=device) * columns + torch.tensor(
        placement.columns, device=device
    )  # (B,)
    within = (is_real.cumsum(1) - 1)[is_real]  # (N,) of all N tokens, text by text
    cells = first.repeat_interleave(lengths) + within
    ids, positions = (torch.zeros(rows * columns, dtype=torch.int64, device=device) for _ in range(2))
    ids[cells], positions[cells] = torch.cat([texts.prompts, texts.tokens], dim=1)[is_real], within
    before = torch.arange(texts.tokens.shape[1] + 1, device=device)  # tokens before a state
    before = torch.minimum(before, texts.lengths.unsqueeze(1))  # after a text's end: all of them
    states = (first + texts.prompt_lengths - 1).unsqueeze(1) + before
    return PackedTexts(ids.view(rows, columns), positions.view(rows, columns), states)


@torch.no_grad()
def supports_packing(model: Any) -> bool:
    """Return whether a model reads a text in a shared row as if it were alone in it.

    Found by a probe: the states of a text must not change by a bit when the text before it is replaced. The probe has
    two rows, since flash attention takes several texts for one unless they are all in a single row.
    """
    device, most = next(model.parameters()).device, model.get_input_embeddings().weight.shape[0] - 1
    positions = torch.tensor([[0, 1, 0, 1]] * 2, device=device)

    def states(*before: int) -> Tensor:
        ids = torch.tensor([[*before, 2, 3]] * 2, device=device).clamp(max=most)
        output = body_of(model)(input_ids=ids, position_ids=positions, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden[:, 2:]

    return torch.equal(states(0, 1), states(4, 5))
