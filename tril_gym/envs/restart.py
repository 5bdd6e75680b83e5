"""The options of `reset` with which an episode begins in any state: reading and validation.

n texts, T new tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tril_gym.envs.arrays import Ids
from tril_gym.envs.config import TextEnvConfig
from tril_gym.utils.suggestions import suggestion

OPTIONS = ("example", "completion", "reset_mask")  # of `reset`
SAMPLE_EXAMPLE = -1  # in place of an index: draw an example uniformly


def read_restart(options: Mapping[str, Any] | None, config: TextEnvConfig) -> tuple[int, list[int]]:
    """Return (example, completion) of `{"example": int, "completion": ids}`; (SAMPLE_EXAMPLE, []) without them."""
    example, completion = restart_options(options)
    if example is None:
        return SAMPLE_EXAMPLE, []
    index = as_integers("example", example)
    if index.ndim != 0:
        raise ValueError(f"options['example'] must be one index, got shape {index.shape}")
    tokens = np.empty(0, np.int64) if completion is None else as_integers("completion", completion)
    if tokens.ndim != 1:
        raise ValueError(f"options['completion'] must be a list of token ids, got shape {tokens.shape}")
    return check_restart(int(index), tokens, config, where="")


def read_row_restarts(
    options: Mapping[str, Any] | None, rows: Ids, num_envs: int, config: TextEnvConfig
) -> list[tuple[int, list[int]]]:
    """Return (example, completion) for each of `rows`; the entries of other rows are not read.

    The options are `{"example": (n,), "completion": (n, T) padded with -1}`.
    """
    examples, completions = restart_options(options)
    if examples is None:
        return [(SAMPLE_EXAMPLE, [])] * len(rows)
    indices = as_integers("example", examples)
    if indices.shape != (num_envs,):
        raise ValueError(f"options['example'] must have one index per environment, ({num_envs},), got {indices.shape}")
    tokens = np.empty((num_envs, 0), np.int64) if completions is None else as_integers("completion", completions)
    if tokens.ndim != 2 or len(tokens) != num_envs:
        raise ValueError(
            f"options['completion'] must have shape ({num_envs}, {config.max_new_tokens}), padded with -1,"
            f" got {tokens.shape}"
        )
    return [check_restart(int(indices[row]), tokens[row], config, where=f" of row {row}") for row in rows.tolist()]


def restart_options(options: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """Return the two restart options, None where they are not given; others may be for wrappers."""
    options = options or {}
    for name in options.keys() - OPTIONS:
        if hint := suggestion(str(name), OPTIONS):
            raise ValueError(f"options[{name!r}] would be ignored{hint}; the options are {', '.join(OPTIONS)}")
    example, completion = options.get("example"), options.get("completion")
    if completion is not None and example is None:
        raise ValueError("options['completion'] needs options['example'], the example that it completes")
    return example, completion


def as_integers(name: str, x: Any) -> Ids:
    """Return an option as an array of integers."""
    try:
        array = np.asarray(x)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"options['{name}'] must be a regular array of integers; pad with -1") from error
    if array.size == 0:
        return array.astype(np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"options['{name}'] must hold integers, got {x!r}")
    if array.max() > np.iinfo(np.int64).max:  # of uint64, whose largest number would become -1
        raise ValueError(f"options['{name}'] must hold integers below 2**63, got {array.max()}")
    return array.astype(np.int64)


def check_restart(index: int, tokens: Ids, config: TextEnvConfig, *, where: str) -> tuple[int, list[int]]:
    """Return an example and a completion without padding, or raise ValueError where no episode can begin there."""
    if not -1 <= index < len(config.examples):
        raise ValueError(
            f"options['example']{where} must be in 0 … {len(config.examples) - 1}, or -1 to draw one, got {index}"
        )
    length = int((tokens != -1).sum())
    completion: list[int] = tokens[:length].tolist()
    name = f"options['completion']{where}"
    if (tokens[length:] != -1).any():
        raise ValueError(f"{name} may hold -1 only after its last token, got {tokens.tolist()}")
    if completion and index == SAMPLE_EXAMPLE:
        raise ValueError(f"{name} has tokens, but options['example'] is -1 there; name the example")
    if unknown := [token for token in completion if not 0 <= token < config.vocab_size]:
        raise ValueError(f"{name} has token {unknown[0]}, ids are in [0, {config.vocab_size})")
    if len(completion) >= config.max_new_tokens:
        raise ValueError(
            f"{name} must have at most {config.max_new_tokens - 1} tokens, so that one is left to write,"
            f" got {len(completion)}"
        )
    if config.is_eos[completion].any():
        raise ValueError(f"{name} has an EOS, after which there is nothing to write: {completion}")
    if config.stop.are_in(completion):
        raise ValueError(f"{name} has a stop string, after which there is nothing to write: {completion}")
    return index, completion
