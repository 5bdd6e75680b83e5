"""The tokenizer of an environment: the embedded one, one by name or folder, or an object."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

EMBEDDED = Path(__file__).parent / "embedded"


def load_tokenizer(tokenizer: Any, task: str) -> Any:
    """Return a tokenizer that has an EOS; a task's embedded one and named ones are loaded once per process."""
    if tokenizer is None:
        raise ValueError('tokenizer must be "embedded", a name, a folder or a tokenizer, got None')
    loaded = tokenizer
    if isinstance(tokenizer, str | Path):
        loaded = _embedded(task) if str(tokenizer) == "embedded" else _named(str(tokenizer))
    if getattr(loaded, "eos_token_id", None) is None:
        raise ValueError(f"the tokenizer {describe(loaded)} has no EOS token, so no text could end; set its eos_token")
    return loaded


def describe(tokenizer: Any) -> str:
    """Return a short name of a tokenizer for messages."""
    return f"{getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__!r}"


@functools.cache
def _embedded(task: str) -> Any:
    from transformers import PreTrainedTokenizerFast  # imports no torch

    return PreTrainedTokenizerFast(
        tokenizer_file=str(EMBEDDED / task / "tokenizer.json"),
        pad_token="<pad>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
    )


@functools.lru_cache(maxsize=8)
def _named(name: str) -> Any:
    from transformers import AutoTokenizer  # imports torch, so only here

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"tokenizer={name!r} is no tokenizer's name on the hub and no folder with one: {error}"
        ) from error
