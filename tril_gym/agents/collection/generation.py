"""Generation with an actor: the buffer that grows, and the loops that write whole texts outside an environment.

B texts, T new tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tril_gym.agents.collection.actor import Actor, Writer, as_writer
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Infos
from tril_gym.models.texts import Texts

ChooseSwitch = Callable[[np.ndarray], np.ndarray]


class CompletionBuffer:
    """B texts whose completions grow while they are written.

    Args:
        begun: the texts as they are at the beginning, on the CPU.
        layout: the environment's sizes and EOS ids.
    """

    def __init__(self, begun: Texts, layout: TextLayout) -> None:
        self.prompts, self.is_prompt, self.layout = begun.prompts, begun.is_prompt, layout
        self.tokens = begun.tokens.numpy().copy()  # (B, T) int64, 0 where nothing is written
        self.written = begun.lengths.numpy()  # (B,) tokens of each text
        self.logprobs = np.zeros(self.tokens.shape)  # (B, T) nats
        self.values: np.ndarray | None = None  # (B, T) before each token, where the writer knows them
        self.cut_mass: np.ndarray | None = None  # (B, T) probability that was excluded, where the writer cuts
        self._is_eos = np.zeros(layout.vocab_size, dtype=bool)
        self._is_eos[list(layout.eos_token_ids)] = True
        self._has_stop_string = np.zeros(len(self.written), dtype=bool)  # (B,)
        self._find_stop_strings(np.arange(len(self.written)))

    def __len__(self) -> int:
        return len(self.written)

    @property
    def is_token(self) -> np.ndarray:
        """(B, T) bool: a token that is written."""
        return np.arange(self.tokens.shape[1]) < self.written[:, None]

    def texts(self, rows: np.ndarray | None = None) -> Texts:
        """Return the texts of some rows, by default of all, as they are written so far."""
        rows = np.arange(len(self)) if rows is None else rows
        tokens, is_token = torch.from_numpy(self.tokens[rows]), torch.from_numpy(self.is_token[rows])
        return Texts(self.prompts[rows], self.is_prompt[rows], tokens, is_token)

    def has_ended(self, rows: np.ndarray) -> np.ndarray:
        """Return whether these rows end with EOS or a stop string, or are full: bool, one each."""
        written = self.written[rows]
        last = self.tokens[rows, np.maximum(written, 1) - 1]
        has_ended = ((written > 0) & self._is_eos[last]) | (written == self.layout.max_new_tokens)
        return has_ended | self._has_stop_string[rows]

    def _find_stop_strings(self, rows: np.ndarray) -> None:
        """Note which of these rows have a stop string."""
        if self.layout.stop:
            for row in rows.tolist():
                ids = self.tokens[row, : self.written[row]].tolist()
                self._has_stop_string[row] = self.layout.stop_strings.are_in(ids)

    def append(self, rows: np.ndarray, tokens: Tensor, logprobs: Tensor | None, writer: Writer) -> None:
        """Add one token to each of these rows, with what its writer knows of it."""
        columns = self.written[rows]
        self.tokens[rows, columns] = tokens.cpu().numpy()
        if logprobs is not None:
            self.logprobs[rows, columns] = logprobs.double().cpu().numpy()
        if writer.values is not None:
            self.values = np.zeros(self.tokens.shape) if self.values is None else self.values
            self.values[rows, columns] = writer.values.double().cpu().numpy()
        if writer.cut_mass is not None:
            self.cut_mass = np.zeros(self.tokens.shape) if self.cut_mass is None else self.cut_mass
            self.cut_mass[rows, columns] = writer.cut_mass.double().cpu().numpy()
        self.written[rows] += 1
        if self.layout.stop:
            for row in rows.tolist():
                self._has_stop_string[row] |= self.layout.stop_strings.end(
                    self.tokens[row, : self.written[row]].tolist()
                )

    def copy_beginnings(self, rows: np.ndarray, source: CompletionBuffer, lengths: np.ndarray) -> None:
        """Let these rows begin with the first `lengths` tokens of the texts of another buffer, one row each."""
        is_copied = np.arange(self.tokens.shape[1]) < lengths[:, None]
        self.tokens[rows] = np.where(is_copied, source.tokens, 0)
        self.logprobs[rows] = np.where(is_copied, source.logprobs, 0.0)
        if source.cut_mass is not None:
            self.cut_mass = np.zeros(self.tokens.shape)
            self.cut_mass[rows] = np.where(is_copied, source.cut_mass, 0.0)
        self.written[rows] = lengths
        self._find_stop_strings(rows)


class BatchGenerator:
    """One actor's writer on a buffer: knows which rows are still written, and gives each its own uniforms.

    Args:
        actor: writes every row that has not ended.
        buffer: holds the B texts.
        infos: one dictionary per text.
        uniforms: (B, T) float64 in [0, 1), one per token.
    """

    def __init__(self, actor: Actor, buffer: CompletionBuffer, infos: Infos, uniforms: Tensor) -> None:
        self.buffer, self.uniforms = buffer, uniforms.numpy()
        every = np.arange(len(buffer))
        self.rows = every[~buffer.has_ended(every)]
        chosen = [infos[row] for row in self.rows]
        self.writer = as_writer(actor.start(buffer.texts(self.rows), chosen, buffer.layout)) if chosen else None
        # Whether no text ends before the limit; a stop string may come before the minimum length.
        is_full_length = self.writer is not None and self.writer.min_new_tokens >= buffer.layout.max_new_tokens
        self.ends_at_limit = is_full_length and not buffer.layout.stop
        if self.ends_at_limit:
            self.put_longest_first(buffer.layout.max_new_tokens - buffer.written)

    def write(self) -> None:
        """Write one token on every row that has not ended."""
        assert self.writer is not None, "every text has ended"
        buffer, rows = self.buffer, self.rows
        tokens, logprobs = self.writer.next(torch.from_numpy(self.uniforms[rows, buffer.written[rows]]))
        buffer.append(rows, tokens, logprobs, self.writer)
        self.keep(~buffer.has_ended(rows))

    def keep(self, stays: np.ndarray) -> None:
        """Drop the rows where (rows,) is False."""
        if not stays.all():
            self._select(np.flatnonzero(stays))

    def put_longest_first(self, remaining: np.ndarray) -> None:
        """Sort the rows by tokens left to write, of (B,), most first: a model drops its last rows at no cost."""
        order = np.argsort(-remaining[self.rows], kind="stable")
        if (order[1:] < order[:-1]).any():
            self._select(order)

    def _select(self, indices: np.ndarray) -> None:
        if len(indices) and self.writer is not None:
            self.writer.keep(torch.from_numpy(indices))
        self.rows = self.rows[indices]

    def close(self) -> None:
        """Release the writer."""
        if self.writer is not None:
            self.writer.close()


def write_completions(
    actor: Actor, texts: Texts, infos: Infos, layout: TextLayout, uniforms: Tensor
) -> CompletionBuffer:
    """Let an actor write texts to their end.

    Args:
        actor: writes.
        texts: B texts as they are at the beginning.
        infos: one dictionary per text.
        layout: the environment's sizes.
        uniforms: (B, T) float64 in [0, 1).
    """
    buffer = CompletionBuffer(texts, layout)
    generator = BatchGenerator(actor, buffer, infos, uniforms)
    while generator.rows.size:
        generator.write()
    generator.close()
    return buffer


def write_rollins(
    actor: Actor,
    texts: Texts,
    infos: Infos,
    layout: TextLayout,
    uniforms: Tensor,
    choose_switch: ChooseSwitch,
    *,
    in_full: bool = False,
) -> tuple[CompletionBuffer, np.ndarray]:
    """Let an actor write texts which will be cut: `choose_switch` maps their lengths (B,) to the switches (B,).

    Where their lengths are known beforehand, nothing is written after the switch, unless they are wanted `in_full`.

    Returns:
        a buffer with the texts, at least up to the switch; and the switches.
    """
    buffer = CompletionBuffer(texts, layout)
    generator = BatchGenerator(actor, buffer, infos, uniforms)
    until = np.full(len(texts), layout.max_new_tokens)
    is_cut_ahead = generator.ends_at_limit and not in_full
    if is_cut_ahead:
        until = choose_switch(until)
        generator.put_longest_first(until)
    while generator.rows.size:
        generator.write()
        generator.keep(buffer.written[generator.rows] < until[generator.rows])
    generator.close()
    return buffer, until if is_cut_ahead else choose_switch(buffer.written)
