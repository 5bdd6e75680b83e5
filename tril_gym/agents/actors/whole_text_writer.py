"""A writer for actors that write each text in one go, such as a table of references or a function of texts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tril_gym.agents.collection.actor import Writer

# (rows that are still written, their (B,) uniforms) -> the remaining ids of each text
WriteTexts = Callable[[list[int], Tensor], list[list[int]]]


class WholeTextWriter(Writer):
    """Calls a function once, at the first token, and hands out its texts token by token.

    Args:
        write_texts: writes the texts of the rows that have not been dropped by then.
        count: number of texts.
    """

    def __init__(self, write_texts: WriteTexts, count: int) -> None:
        self.write_texts, self._rows = write_texts, list(range(count))
        self._tokens: list[list[int]] | None = None
        self._written = 0

    def next(self, draws: Tensor) -> tuple[Tensor, None]:
        """Return the next token of every text."""
        if self._tokens is None:
            self._tokens = self.write_texts(self._rows, draws)
        column = [tokens[self._written] for tokens in self._tokens]
        self._written += 1
        return torch.tensor(column), None

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only."""
        kept = rows.tolist()
        self._rows = [self._rows[row] for row in kept]
        if self._tokens is not None:
            self._tokens = [self._tokens[row] for row in kept]
