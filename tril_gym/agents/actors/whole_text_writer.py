"""A writer for actors that write each text in one go, such as a table of references or a function of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tril_gym.agents.collection.actor import Writer


@dataclass(frozen=True)
class WrittenTexts:
    """The remaining ids of each text, and their log-probabilities in nats, where the actor has them."""

    ids: list[list[int]]
    logprobs: list[list[float]] | None = None

    def rows(self, kept: list[int]) -> WrittenTexts:
        """Return some of the texts."""
        logprobs = None if self.logprobs is None else [self.logprobs[row] for row in kept]
        return WrittenTexts([self.ids[row] for row in kept], logprobs)


# (rows that are still written, their (B,) uniforms) -> the rest of each text
WriteTexts = Callable[[list[int], Tensor], WrittenTexts]


class WholeTextWriter(Writer):
    """Calls a function once, at the first token, and hands out its texts token by token.

    Args:
        write_texts: writes the texts of the rows that have not been dropped by then.
        count: number of texts.
    """

    def __init__(self, write_texts: WriteTexts, count: int) -> None:
        self.write_texts, self._rows = write_texts, list(range(count))
        self._texts: WrittenTexts | None = None
        self._written = 0

    def next(self, draws: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the next token of every text."""
        if self._texts is None:
            self._texts = self.write_texts(self._rows, draws)
        column, logprobs = self._written, self._texts.logprobs
        self._written += 1
        tokens = torch.tensor([ids[column] for ids in self._texts.ids])
        if logprobs is None:
            return tokens, None
        return tokens, torch.tensor([values[column] for values in logprobs], dtype=torch.float64)

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only."""
        kept = rows.tolist()
        self._rows = [self._rows[row] for row in kept]
        if self._texts is not None:
            self._texts = self._texts.rows(kept)


def up_to_end(ids: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Return ids up to the first that ends a text, which is kept; what follows is padding."""
    end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return list(ids[: end + 1])
