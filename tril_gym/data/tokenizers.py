"""The tokenizer of an environment: embedded, fitted to its texts, loaded by name or folder, or given as an object."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tril_gym.data.examples import Examples
from tril_gym.utils import tokenization
from tril_gym.utils.no_copy import NoCopy

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

PAD_TOKEN, EOS_TOKEN = "<pad>", "<eos>"
FIT = "fit"  # or fit:8000
MIN_FITTED_SIZE = 300  # tokens: all bytes, the special tokens, and a few words
FITTED_SIZE = 4_000  # tokens: most words of a few thousand texts, yet a small output layer for a tiny model
FITTED_ON = 100_000  # examples at most: more do not change which words are frequent
EMBEDDED = Path(__file__).parent / "embedded"


def resolve_tokenizer(tokenizer: Any, task: str, train_examples: Callable[[], Examples]) -> Any:
    """Return a tokenizer that has an EOS token; embedded, fitted and named ones are loaded once per process."""
    if tokenizer is None:
        raise ValueError('tokenizer must be "embedded", "fit", a name, a folder or a tokenizer, got None')
    loaded = tokenizer
    if isinstance(tokenizer, str | Path):
        name = str(tokenizer)
        if name == "embedded":
            loaded = _embedded(task)
        elif name == FIT or name.startswith(f"{FIT}:"):
            size = fitted_size(name)  # before the examples are loaded
            loaded = _fitted(NoCopy(train_examples()), size)
        else:
            loaded = _named(name)
    if not callable(loaded):
        raise ValueError(f'tokenizer must be "embedded", "fit", a name, a folder or a tokenizer, got {tokenizer!r}')
    if getattr(loaded, "eos_token_id", None) is None:
        raise ValueError(f"the tokenizer {describe(loaded)} has no EOS token, so no text could end; set its eos_token")
    return loaded


def fitted_size(name: str) -> int:
    """Return the vocabulary size that "fit" or "fit:8000" names.

    Raises:
        ValueError: it is no whole number, or too small.
    """
    _, colon, size = name.partition(":")
    if not colon:
        return FITTED_SIZE
    if not size.isdecimal() or int(size) < MIN_FITTED_SIZE:
        raise ValueError(
            f"tokenizer must be {FIT} or {FIT}:N with a vocabulary size N of at least {MIN_FITTED_SIZE}, got {name!r};"
            f" {FIT} alone has {FITTED_SIZE} tokens"
        )
    return int(size)


def describe(tokenizer: Any) -> str:
    """Return a short name of a tokenizer for messages."""
    return f"{getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__!r}"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level tokenizer. Its alphabet has every byte, so decoding restores any text exactly.

    If all words of the texts fit into the vocabulary, each word is one token and other words are written byte by byte;
    then every token but the special ones and single bytes occurs in the texts. If not, a BPE is trained.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    special, alphabet = [PAD_TOKEN, EOS_TOKEN], sorted(pre_tokenizers.ByteLevel.alphabet())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = list(texts)
    words = _words_by_count(texts, split, at_most=vocab_size - len(special) - len(alphabet))
    tokens = [*special, *alphabet, *(words or ())]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE() if words is None else models.BPE(vocabulary, [], ignore_merges=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    if words is None:
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
    else:
        tokenizer.add_special_tokens(special)
    return tokenizer


def _words_by_count(texts: Iterable[str], split: PreTokenizer, *, at_most: int) -> list[str] | None:
    """Return the words of two bytes or more, frequent ones first; None as soon as there are more than `at_most`."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in split.pre_tokenize_str(text) if len(word) > 1)
        if len(counts) > at_most:
            return None
    return sorted(counts, key=lambda word: (-counts[word], word))


@functools.cache
def _embedded(task: str) -> Any:
    return _fast(tokenizer_file=str(EMBEDDED / task / "tokenizer.json"))


@functools.lru_cache(maxsize=4)
def _fitted(examples: NoCopy, size: int) -> Any:
    train: Examples = examples.value  # type: ignore[assignment]
    fitted_on = train[:: max(1, math.ceil(len(train) / FITTED_ON))]  # evenly spaced, where there are more
    texts = (text for example in fitted_on for text in (example.prompt, *(f" {it}" for it in example.references)))
    return _fast(tokenizer_object=train_tokenizer(texts, size))


def _fast(**source: Any) -> Any:
    from transformers import PreTrainedTokenizerFast  # imports no torch

    return PreTrainedTokenizerFast(
        **source, pad_token=PAD_TOKEN, eos_token=EOS_TOKEN, clean_up_tokenization_spaces=False
    )


_named = functools.lru_cache(maxsize=8)(tokenization.load_tokenizer)
