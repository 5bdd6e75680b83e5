"""Writing whole texts with an actor, outside an environment.

B texts, P prompt tokens, T new tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Actor
from tril_gym.agents.collection.trajectories import Infos

Cut = Callable[[np.ndarray], np.ndarray]


class CompletionBuffer:
    """The tokens of B texts as they are written, and which of them have come to their end."""

    def __init__(self, tokens: np.ndarray, layout: TextLayout) -> None:
        self.tokens, self.layout = tokens, layout  # (B, T) int64, -1 where nothing is written
        self.logprobs = np.zeros(tokens.shape)
        self.values: np.ndarray | None = None  # (B, T) before each token, where the writer knows them
        self.written = (tokens >= 0).sum(1)
        self._is_eos = np.zeros(layout.vocab_size + 1, dtype=bool)  # by id; the last is that of -1, an empty cell
        self._is_eos[list(layout.eos_token_ids)] = True

    @staticmethod
    def empty(texts: int, layout: TextLayout) -> CompletionBuffer:
        """A board that nobody has written on."""
        return CompletionBuffer(np.full((texts, layout.max_new_tokens), -1, dtype=np.int64), layout)

    def has_ended(self, rows: np.ndarray) -> np.ndarray:
        """Whether these rows stand at EOS or at the length limit: bool, one each."""
        last = self.tokens[rows, np.maximum(self.written[rows], 1) - 1]
        return self._is_eos[last] | (self.written[rows] == self.layout.max_new_tokens)


class BatchGenerator:
    """An actor's writer on a board: knows which rows it still writes, and hands it their draws.

    Args:
        actor: who writes, on every row that has not ended.
        prompts: (B, P), -1 in empty cells.
        board: what stands of the B texts.
        infos: one dictionary a text.
        draws: (B, T) uniforms.
    """

    def __init__(self, actor: Actor, prompts: Tensor, board: CompletionBuffer, infos: Infos, draws: Tensor) -> None:
        self.board, self.draws = board, draws.numpy()
        every = np.arange(len(infos))
        self.rows = every[~board.has_ended(every)]
        texts = torch.from_numpy(board.tokens[self.rows])
        chosen = [infos[row] for row in self.rows]
        self.writer = actor.start(prompts[self.rows], texts, chosen, board.layout) if chosen else None
        # Whether no text of this writer ends before the limit, by its promise.
        self.ends_at_limit = getattr(self.writer, "min_new_tokens", 0) >= board.layout.max_new_tokens
        if self.ends_at_limit:
            self.put_longest_first(board.layout.max_new_tokens - board.written)

    def write(self) -> None:
        """One token on every row that has not come to its end."""
        assert self.writer is not None, "every text has ended"
        board, rows = self.board, self.rows
        columns = board.written[rows]
        written, logprobs = self.writer.next(torch.from_numpy(self.draws[rows, columns]))
        board.tokens[rows, columns] = written.cpu().numpy()
        if logprobs is not None:
            board.logprobs[rows, columns] = logprobs.double().cpu().numpy()
        values = getattr(self.writer, "values", None)
        if values is not None:
            board.values = np.zeros(board.tokens.shape) if board.values is None else board.values
            board.values[rows, columns] = values.double().cpu().numpy()
        board.written[rows] += 1
        self.keep(~board.has_ended(rows))

    def keep(self, stays: np.ndarray) -> None:
        """Go on with those of its rows only where (rows,) is True."""
        if not stays.all():
            self._go_on(np.flatnonzero(stays))

    def put_longest_first(self, remaining: np.ndarray) -> None:
        """Put the rows with the most tokens to write, of (B,), first: a model lets its last rows go for nothing."""
        order = np.argsort(-remaining[self.rows], kind="stable")
        if (order[1:] < order[:-1]).any():
            self._go_on(order)

    def _go_on(self, places: np.ndarray) -> None:
        if len(places) and self.writer is not None:
            self.writer.keep(torch.from_numpy(places))
        self.rows = self.rows[places]

    def close(self) -> None:
        """Let the writer go."""
        if self.writer is not None:
            self.writer.close()


def write_completions(
    actor: Actor, prompts: Tensor, infos: Infos, layout: TextLayout, draws: Tensor, begun: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Let an actor write whole texts.

    Args:
        actor: who writes.
        prompts: (B, P), -1 in empty cells.
        infos: one dictionary a text.
        layout: the environment's sizes.
        draws: (B, T) uniforms.
        begun: (B, T) what stands of the texts already, -1 in empty cells; by default nothing.

    Returns:
        tokens (B, T) int64 with -1 after the end, and their log-probabilities (B, T), 0 where the actor has none.
    """
    board = CompletionBuffer.empty(len(infos), layout) if begun is None else CompletionBuffer(begun.copy(), layout)
    pen = BatchGenerator(actor, prompts, board, infos, draws)
    while pen.rows.size:
        pen.write()
    pen.close()
    return board.tokens, board.logprobs


def write_rollins(
    actor: Actor, prompts: Tensor, infos: Infos, layout: TextLayout, draws: Tensor, cut: Cut
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let an actor write texts as `write_completions` does, which will be cut: (B,) lengths -> (B,) places.

    Where their lengths are known ahead nothing is written beyond the cut.

    Returns:
        tokens and log-probabilities as from `write_completions`, at least up to the cut; and the cuts (B,).
    """
    board = CompletionBuffer.empty(len(infos), layout)
    pen = BatchGenerator(actor, prompts, board, infos, draws)
    until = np.full(len(infos), layout.max_new_tokens)
    if pen.ends_at_limit:
        until = cut(until)
        pen.put_longest_first(until)
    while pen.rows.size:
        pen.write()
        pen.keep(board.written[pen.rows] < until[pen.rows])
    pen.close()
    return board.tokens, board.logprobs, until if pen.ends_at_limit else cut(board.written)
