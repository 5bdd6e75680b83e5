"""Log-probabilities of texts given a context, under a causal or encoder-decoder model of `transformers`.

N texts, L ids that a model reads at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tril_gym.rewards.base import Scores, Strings, well_formed
from tril_gym.rewards.neural.adapters import base_model_of, is_adapter, load_with_adapter, tokenizer_source
from tril_gym.rewards.neural.pretrained import (
    ComputeSettings,
    Ids,
    batches_by_length,
    from_pretrained,
    length_to_read,
    load_config,
    load_once,
    pad,
    positions_of,
)
from tril_gym.utils.text_codec import TextCodec
from tril_gym.utils.tokenization import encode, load_tokenizer

USUAL_LENGTH = 1024  # tokens


class Window(NamedTuple):
    """Ids of one text that a model reads at once; those from `first` on are scored."""

    text: int  # index of the text
    source: Ids  # input of the encoder; empty for a causal model
    ids: Ids
    first: int


class LanguageModel:
    """A model and its tokenizer, which compute the cost of texts."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        from tril_gym.models.architecture import decoder_start

        self.model, self.tokenizer, self.config = model.eval(), tokenizer, model.config
        self._codec = TextCodec(tokenizer)
        self.eos_id = _first_of(tokenizer.eos_token_id, self.config.eos_token_id)
        # The ids before a text without a context: one, or two for BART, which forces BOS.
        self.start_ids = decoder_start(model) if self.is_seq2seq else [_first_of(tokenizer.bos_token_id, self.eos_id)]

    @property
    def is_seq2seq(self) -> bool:
        """Whether an encoder reads the context."""
        return bool(self.config.is_encoder_decoder)

    def length(self, max_length: int | None) -> int:
        """Return the number of tokens to read at once; None is the model's maximum, but at most 1024."""
        most = positions_of(self.model, self.tokenizer)
        return length_to_read(max_length, most=most, usual=USUAL_LENGTH, least=2)

    def cost(self, contexts: Strings, texts: Strings, *, joiner: str, max_length: int, batch_size: int) -> Scores:
        """Return −log p(text | context) in nats and the number of tokens of each text, (N, 2).

        A text without tokens is read as one token EOS. If context and text are longer than L, a window of L tokens
        moves over them by L / 2: each token is scored once, with at least L / 2 tokens before it.

        Args:
            contexts: the context of each text; "" for none.
            texts: N texts.
            joiner: put between context and text, unless white space is there.
            max_length: L.
            batch_size: windows per forward pass.
        """
        rows = [
            row
            for text, pair in enumerate(zip(contexts, texts, strict=True))
            for row in self._windows(text, *pair, joiner=joiner, max_length=max_length)
        ]
        found = np.zeros((len(texts), 2))
        for chosen in batches_by_length([len(row.source) + len(row.ids) for row in rows], batch_size):
            batch = [rows[index] for index in chosen]
            for row, nats in zip(batch, self._nats(batch), strict=True):
                found[row.text] += nats, len(row.ids) - row.first
        return found

    def _windows(self, number: int, context: str, text: str, *, joiner: str, max_length: int) -> Iterator[Window]:
        source, before = self._read(context, max_length)
        is_apart = (context[-1:] or " ").isspace() or text[:1].isspace()  # a rendered chat ends in a line break
        between = "" if is_apart or self.is_seq2seq else joiner
        ids = self._continuation(between + text, begins=self.is_seq2seq or not context) if text else []
        whole = before + (ids or [self.eos_id])
        # The last token is predicted, not read.
        for begin, end, first in windows(len(whole), len(before), max_length + 1):
            yield Window(number, source, whole[begin:end], first)

    def _read(self, context: str, max_length: int) -> tuple[Ids, Ids]:
        """Return the ids of the encoder, and those before the text in the decoder."""
        if self.is_seq2seq:
            self.tokenizer.truncation_side = "left"
            source = self.tokenizer(well_formed(context), truncation=True, max_length=max_length)["input_ids"]
            return source or [self.eos_id], self.start_ids
        ids = self._encode(context) if context else []
        opens = self.tokenizer("")["input_ids"][:1] == self.start_ids != ids[:1]  # a rendered chat may begin with it
        return [], [*self.start_ids, *ids] if opens or not ids else ids

    def _continuation(self, text: str, *, begins: bool) -> Ids:
        """Return the ids of a text as a policy writes them: no space of its own that the tokenizer puts before texts.

        Args:
            text: the text.
            begins: whether nothing is before it, where a first word is spelled as a tokenizer begins a text with it.
        """
        text = well_formed(text)
        return encode(self.tokenizer, text) if begins and not text[0].isspace() else self._codec.ids(text)

    def _encode(self, text: str) -> Ids:
        return list(self.tokenizer(well_formed(text), add_special_tokens=False, verbose=False)["input_ids"])

    def _nats(self, rows: Sequence[Window]) -> list[float]:
        """Return −log of the probability of the scored tokens of each row."""
        import torch

        inputs = pad([row.ids[:-1] for row in rows], 0)
        if self.is_seq2seq:
            inputs = pad([row.source for row in rows], 0) | {"decoder_input_ids": inputs["input_ids"]}
        with torch.inference_mode():
            logits = self.model(**{name: x.to(self.model.device) for name, x in inputs.items()}, use_cache=False).logits
            # One row at a time: log-softmax of the whole batch would double the memory.
            return [_nats(of_row, row) for of_row, row in zip(logits, rows, strict=True)]


def windows(length: int, first: int, size: int) -> list[tuple[int, int, int]]:
    """Return windows of `size` over `length` ids, such that each id from `first` on is scored once.

    Each scored id has at least half a window before it, or all ids that there are.

    Returns:
        Begin and end of each window, and the index in it of the first id that is scored.
    """
    assert 1 <= first <= length, (first, length)
    found = []
    while first < length:
        end = min(length, max(size, first + size // 2))
        begin = max(0, end - size)
        found.append((begin, end, first - begin))
        first = end
    return found


def load_language_model(source: str, *, device: str | None, dtype: str) -> LanguageModel:
    """Return the language model of that name or in that folder, one per process."""
    return load_once(_load, source, device=device, dtype=dtype)


def _load(source: str, compute: ComputeSettings) -> LanguageModel:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = load_config(base_model_of(Path(source)) if is_adapter(source) else source)
    _check_is_causal(source, config)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if is_adapter(source):
        return LanguageModel(load_with_adapter(kind, source, compute), load_tokenizer(tokenizer_source(source)))
    model, missing = from_pretrained(kind, source, dtype=compute.dtype)
    if missing:
        raise ValueError(f"{source!r} is no trained language model: it lacks {', '.join(missing)}")
    return LanguageModel(model.to(compute.device), load_tokenizer(source))


def _check_is_causal(source: str, config: Any) -> None:
    """Raise ValueError for a model such as BERT, which loads as a causal model but attends to the predicted token."""
    from tril_gym.models.architecture import is_encoder

    if is_encoder(config):
        raise ValueError(
            f"{source!r} is a {config.model_type} model, which reads texts in both directions and has no perplexity;"
            " give a causal or an encoder-decoder model"
        )


def _nats(logits: Any, row: Window) -> float:
    """Return the cost of a row's scored tokens from its logits, (L, V)."""
    logprobs = logits[row.first - 1 : len(row.ids) - 1].double().log_softmax(-1)
    return -float(logprobs.gather(1, logprobs.new_tensor(row.ids[row.first :]).long().unsqueeze(1)).sum())


def _first_of(*candidates: Any) -> int:
    for candidate in candidates:
        if candidate is not None:
            return int(candidate[0] if isinstance(candidate, list) else candidate)
    raise ValueError(
        "the language model has no EOS token, as which an empty text is scored; set eos_token in its tokenizer, or"
        " eos_token_id in its config"
    )
