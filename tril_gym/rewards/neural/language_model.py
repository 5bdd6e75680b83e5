"""How likely a language model finds a text after another: any causal or encoder-decoder model of `transformers`.

N texts, n ids of one of them, L ids that a model reads at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tril_gym.rewards.base import Scores, Strings, well_formed
from tril_gym.rewards.neural.adapters import base_of, is_adapter, load_adapted, tokenizer_source
from tril_gym.rewards.neural.pretrained import (
    Ids,
    Place,
    batches_by_length,
    from_pretrained,
    length_to_read,
    load_config,
    load_once,
    pad,
    positions_of,
)
from tril_gym.utils.tokenization import load_tokenizer

USUAL_LENGTH = 1024  # tokens


class Row(NamedTuple):
    """Ids of one text that a model reads at once; those from `first` on are judged."""

    text: int  # whose ids they are
    source: Ids  # what an encoder reads; a causal model has none
    ids: Ids
    first: int


class LanguageModel:
    """A model and its tokenizer, which say what texts cost."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer, self.config = model.eval(), tokenizer, model.config
        self.eos_id = _first_of(tokenizer.eos_token_id, self.config.eos_token_id)
        # What a text begins with that has nothing before it.
        opening = (tokenizer.bos_token_id, self.eos_id)
        self.start_id = _first_of(*((self.config.decoder_start_token_id,) if self.is_seq2seq else ()), *opening)

    @property
    def is_seq2seq(self) -> bool:
        """Whether an encoder reads what stands before a text."""
        return bool(self.config.is_encoder_decoder)

    def length(self, max_length: int | None) -> int:
        """Return how many tokens to read at once; None is the most that the model can, up to 1024."""
        most = positions_of(self.model, self.tokenizer)
        return length_to_read(max_length, most=most, usual=USUAL_LENGTH, least=2)

    def cost(self, contexts: Strings, texts: Strings, *, joiner: str, max_length: int, batch_size: int) -> Scores:
        """Return what each text costs behind its context, −log of its probability in nats, and its tokens, (N, 2).

        A text without tokens is read as its end, one token EOS. Where context and text are longer than L, a window of L
        tokens moves over them by L / 2: each token is judged once, behind L / 2 others at least.

        Args:
            contexts: what stands before each text; "" for nothing.
            texts: N texts.
            joiner: what stands between, where there is a context and the text does not begin with white space.
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

    def _windows(self, number: int, context: str, text: str, *, joiner: str, max_length: int) -> Iterator[Row]:
        source, before = self._read(context, max_length)
        between = joiner if context and not text[:1].isspace() and not self.is_seq2seq else ""
        ids = self._encode(between + text) if text else []
        whole = before + (ids or [self.eos_id])
        # The last token is predicted, not read.
        for begin, end, first in windows(len(whole), len(before), max_length + 1):
            yield Row(number, source, whole[begin:end], first)

    def _read(self, context: str, max_length: int) -> tuple[Ids, Ids]:
        """Return what the encoder reads, and what the decoder begins with."""
        if self.is_seq2seq:
            self.tokenizer.truncation_side = "left"
            source = self.tokenizer(well_formed(context), truncation=True, max_length=max_length)["input_ids"]
            return source or [self.eos_id], [self.start_id]
        ids = self._encode(context) if context else []
        opens = self.tokenizer("")["input_ids"][:1] == [self.start_id]
        return [], [self.start_id, *ids] if opens or not ids else ids

    def _encode(self, text: str) -> Ids:
        return list(self.tokenizer(well_formed(text), add_special_tokens=False, verbose=False)["input_ids"])

    def _nats(self, rows: Sequence[Row]) -> list[float]:
        """Return −log of the probability of the judged tokens of each row."""
        import torch

        inputs = pad([row.ids[:-1] for row in rows], 0)
        if self.is_seq2seq:
            inputs = pad([row.source for row in rows], 0) | {"decoder_input_ids": inputs["input_ids"]}
        with torch.inference_mode():
            logits = self.model(**{name: x.to(self.model.device) for name, x in inputs.items()}, use_cache=False).logits
            # One row at a time: the logarithms of a whole batch would need as much memory again.
            return [_nats(of_row, row) for of_row, row in zip(logits, rows, strict=True)]


def windows(length: int, first: int, size: int) -> list[tuple[int, int, int]]:
    """Return where to read `length` ids, `size` at a time, so that each from `first` on is judged once.

    Every id that is judged has the half of a window before it, or all that there is.

    Returns:
        Begin and end of each window, and the place in it of the first id that is judged.
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


def _load(source: str, place: Place) -> LanguageModel:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = load_config(base_of(Path(source)) if is_adapter(source) else source)
    _refuse_reading_ahead(source, config)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if is_adapter(source):
        return LanguageModel(load_adapted(kind, source, place), load_tokenizer(tokenizer_source(source)))
    model, missing = from_pretrained(kind, source, dtype=place.dtype)
    if missing:
        raise ValueError(f"{source!r} is no trained language model: it lacks {', '.join(missing)}")
    return LanguageModel(model.to(place.device), load_tokenizer(source))


def _refuse_reading_ahead(source: str, config: Any) -> None:
    """Raise ValueError for a model such as BERT, which loads as a causal one and sees the token that it predicts."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    reads_ahead = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_encoder_decoder
    if reads_ahead and not getattr(config, "is_decoder", False):
        raise ValueError(
            f"{source!r} is a {config.model_type} model, which reads texts in both directions and has no perplexity;"
            " give a causal or an encoder-decoder model"
        )


def _nats(logits: Any, row: Row) -> float:
    """Return the cost of a row's judged tokens, of its logits (L, V)."""
    judged = logits[row.first - 1 : len(row.ids) - 1].double().log_softmax(-1)
    return -float(judged.gather(1, judged.new_tensor(row.ids[row.first :]).long().unsqueeze(1)).sum())


def _first_of(*candidates: Any) -> int:
    for candidate in candidates:
        if candidate is not None:
            return int(candidate[0] if isinstance(candidate, list) else candidate)
    raise ValueError("the language model has no token for the beginning or the end of a text, so nothing can begin one")
