"""Load tokenizers by name or from a folder, and encode text whatever it contains."""

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


def encode(tokenizer: Any, text: str) -> list[int]:
    """Tokenise a text without special tokens and without a limit of length.

    The name of a special token that the text contains, such as "<eos>", stays text.
    """
    settings = {"add_special_tokens": False, "split_special_tokens": True, "truncation": False, "verbose": False}
    ids = list(tokenizer(text, **settings)["input_ids"])
    special = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    if special.isdisjoint(ids):
        return ids
    # Some vocabularies, such as T5's, have the names among their ordinary pieces: there they are spelled by letters.
    return [piece for token in ids for piece in (_letters(tokenizer, token) if token in special else [token])]


def _letters(tokenizer: Any, token: int) -> list[int]:
    """Return the ids of the letters of a token's name, as far as the vocabulary has them."""
    ids = [tokenizer.convert_tokens_to_ids(letter) for letter in tokenizer.convert_ids_to_tokens(token)]
    return [letter for letter in ids if letter is not None]


def special_tokens_of_prompts(tokenizer: Any, *, keeps_eos: bool) -> tuple[list[int], list[int]]:
    """Return the tokens before and after every prompt; without EOS unless it is kept."""
    before, after = special_tokens(tokenizer)
    return before, [token for token in after if keeps_eos or token != tokenizer.eos_token_id]


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer puts before and after every text, such as Llama's BOS and T5's `</s>`."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    tokens, special = list(encoded["input_ids"]), list(encoded["special_tokens_mask"])
    if all(special):
        return tokens, []
    first, last = special.index(0), len(special) - special[::-1].index(0)
    return tokens[:first], tokens[last:]
