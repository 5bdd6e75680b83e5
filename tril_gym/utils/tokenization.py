"""Load tokenizers by name or from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def load_tokenizer(name: str | Path, **settings: Any) -> Any:
    """Return the tokenizer of that hub name or in that folder.

    Args:
        name: a hub name or a folder.
        settings: for the tokenizer's own `from_pretrained`.

    Raises:
        ValueError: there is none.
    """
    from transformers import AutoTokenizer  # imports torch, so only here

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **settings)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"no tokenizer could be loaded from {str(name)!r}; give a folder that tokenizer.save_pretrained wrote, or a"
            f" hub name, which needs a network ({reason})"
        ) from error
    # From a folder without tokenizer files transformers makes a tokenizer without words, and gives no warning.
    files = {*TOKENIZER_FILES, *tokenizer.vocab_files_names.values()}
    if Path(name).is_dir() and not any((Path(name) / file).is_file() for file in files):
        raise ValueError(f"{str(name)!r} has no tokenizer; save the model's there with tokenizer.save_pretrained")
    return tokenizer
