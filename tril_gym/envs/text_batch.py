"""The state of n texts as arrays, which the single and the vector environment use.

n texts, k of them in an operation, P prompt tokens, T new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tril_gym.envs.arrays import Floats, Ids, Mask
from tril_gym.envs.config import TextEnvConfig

INT64 = np.dtype(np.int64)


class TextBatch:
    """n texts side by side; the environment draws the examples and decides when a text begins.

    Attributes:
        observations: (n, P + T).
        examples: (n,) index of each text's example, -1 before the first reset.
        is_writing: (n,) True on texts that have begun and not ended.
        common_length: number of tokens of every text, where all are being written and have the same length; else None.
            That is the usual case, and its steps are cheaper.
    """

    def __init__(self, config: TextEnvConfig, num_texts: int) -> None:
        self.config = config
        self.observations = np.full((num_texts, config.max_prompt_length + config.max_new_tokens), -1, np.int64)
        self.examples = np.full(num_texts, -1, np.int64)
        self.is_writing = np.zeros(num_texts, bool)
        self._all_rows = np.arange(num_texts)
        self._lengths = np.zeros(num_texts, np.int64)  # valid where common_length is None
        self.common_length: int | None = None

    @property
    def lengths(self) -> Ids:
        """Number of tokens of each completion, (n,)."""
        return self._lengths if self.common_length is None else np.full(len(self._lengths), self.common_length)

    def _clear_common_length(self) -> None:
        """Store a length for each text."""
        if self.common_length is not None:
            self._lengths[:], self.common_length = self.common_length, None

    def start(self, rows: Ids, states: Sequence[tuple[int, list[int]]]) -> None:
        """Begin k texts in the states (example, completion)."""
        P = self.config.max_prompt_length  # noqa: N806
        self._clear_common_length()
        examples = np.array([example for example, _ in states], np.int64)
        self.observations[rows, :P] = self.config.prompts.rows(examples)
        self.observations[rows, P:] = -1
        for row, (_, completion) in zip(rows.tolist(), states, strict=True):
            self.observations[row, P : P + len(completion)] = completion
        self._lengths[rows] = [len(completion) for _, completion in states]
        self.examples[rows] = examples
        self.is_writing[rows] = True
        if self.is_writing.all() and (self._lengths == self._lengths[0]).all() and self.config.reward_fn is None:
            self.common_length = int(self._lengths[0])

    def write(self, rows: Ids | None, tokens: Ids) -> tuple[Floats, Mask]:
        """Append one token to k texts; return the reward of each token and whether it ended its text, both (k,).

        `rows=None` writes to all n, the usual case.
        """
        config = self.config
        check_range(tokens, config.vocab_size)
        if rows is None and self.common_length is not None:
            return self._write_column(tokens, self.common_length)
        self._clear_common_length()
        indices = self._all_rows if rows is None else rows
        lengths = self._lengths[indices]
        self.observations[indices, lengths + config.max_prompt_length] = tokens
        lengths += 1
        self._lengths[indices] = lengths
        has_ended = config.is_eos[tokens]
        has_ended |= lengths == config.max_new_tokens
        self._end_at_stop_strings(indices, has_ended)
        if np.count_nonzero(has_ended):
            self.is_writing[indices] = np.logical_not(has_ended)
        if config.reward_fn is None:
            return np.zeros(len(indices)), has_ended
        prompts, completions = np.split(self.observations[indices], [config.max_prompt_length], axis=1)
        return config.reward_fn(prompts, completions, lengths, has_ended), has_ended

    def _write_column(self, tokens: Ids, length: int) -> tuple[Floats, Mask]:
        """Append one token to all texts, which have one length: a column takes a fifth of the time of its cells."""
        config = self.config
        self.observations[:, config.max_prompt_length + length] = tokens
        self.common_length = length + 1
        has_ended = config.is_eos[tokens]  # three times as fast as comparing with each EOS id
        if self.common_length == config.max_new_tokens:
            has_ended[:] = True
        self._end_at_stop_strings(self._all_rows, has_ended)
        if np.count_nonzero(has_ended):
            np.logical_not(has_ended, out=self.is_writing)
            self._clear_common_length()
        return np.zeros(len(tokens)), has_ended

    def _end_at_stop_strings(self, rows: Ids, has_ended: Mask) -> None:
        """Set `has_ended` (k,) of the k texts that have a stop string since their newest token, in place."""
        if self.config.stop:
            for place in np.flatnonzero(np.logical_not(has_ended)).tolist():
                has_ended[place] = self.config.stop.end(self.tokens(rows[place]))

    def stop(self, rows: Ids) -> None:
        """End texts where they are."""
        self._clear_common_length()
        self.is_writing[rows] = False

    def tokens(self, row: int) -> list[int]:
        """Return the completion of a row."""
        first = self.config.max_prompt_length
        length = self._lengths[row] if self.common_length is None else self.common_length
        ids: list[int] = self.observations[row, first : first + length].tolist()
        return ids

    def reset_info(self, row: int) -> dict[str, Any]:
        """Return the info of a row that begins."""
        return self.config.reset_info(int(self.examples[row]))

    def end_info(self, row: int) -> dict[str, Any]:
        """Return the info of a row that ends."""
        return self.config.end_info(int(self.examples[row]), self.tokens(row))

    def frame(self, row: int) -> str:
        """Return a row as text: prompt, completion and finish reason, or "…" while the text is unfinished."""
        config, tokens = self.config, self.tokens(row)
        reason = config.finish_reason(tokens) if tokens else None
        has_ended = reason == "stop" or len(tokens) == config.max_new_tokens
        end = f" [{reason}]" if has_ended else "…"
        return f"{config.prompts.text(int(self.examples[row]))}\n> {config.completion(tokens)}{end}"


def check_actions(actions: Any, shape: tuple[int, ...]) -> Ids:
    """Return actions as an int64 array; raise ValueError for another shape or type. `check_range` checks the values."""
    array = np.asarray(actions)
    if array.dtype == INT64 and array.shape == shape:
        return array  # the usual case; astype would take four times as long
    if array.shape != shape or array.dtype.kind not in "iu":
        raise ValueError(f"actions must be token ids of shape {shape}, got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64, copy=False)


def check_range(tokens: Ids, vocab_size: int) -> None:
    """Raise ValueError where a token is not in [0, V)."""
    as_unsigned = tokens.view(np.uint64)  # a negative id becomes a huge one: one comparison for both limits
    if tokens.size and as_unsigned.item(as_unsigned.argmax()) >= vocab_size:  # half the time of comparing all of them
        outside = tokens[as_unsigned >= vocab_size]
        raise ValueError(f"action {outside[0]} is no token id: ids are in [0, {vocab_size})")
