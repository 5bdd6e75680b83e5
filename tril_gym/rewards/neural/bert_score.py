"""BERTScore: tokens of completion and reference matched by the similarity of their contextual embeddings.

Zhang et al. 2020, section 3: https://arxiv.org/abs/1904.09675. Without idf weights and without
rescaling, as in the published code by default: [CLS] and [SEP] can be matched, but have no weight themselves. Differs
from that code: negative similarities are used, which there depend on the padding; an empty text scores 0.

B texts, n tokens of a completion, m of a reference, D hidden.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from tril_gym.rewards.base import Extras, ReferenceLists, Score, Scores, Strings, check_batch, well_formed
from tril_gym.rewards.neural.pretrained import (
    USUAL_LENGTH,
    ComputeSettings,
    batches_by_length,
    check_run_settings,
    from_pretrained,
    length_to_read,
    load_config,
    load_once,
    pad,
    positions_of,
    resolve_model,
)
from tril_gym.utils.config_fields import check_choice, check_integer
from tril_gym.utils.tokenization import load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

PARTS = ("precision", "recall", "f1")

# The layer with the best agreement with human judgements on WMT16, as published by the authors.
BEST_LAYERS = {
    "bert-base-uncased": 9,
    "bert-large-uncased": 18,
    "bert-base-multilingual-cased": 9,
    "distilbert-base-uncased": 5,
    "roberta-base": 10,
    "roberta-large": 17,
    "roberta-large-mnli": 19,
    "xlm-roberta-base": 9,
    "xlm-roberta-large": 17,
    "microsoft/deberta-base-mnli": 9,
    "microsoft/deberta-large-mnli": 18,
    "microsoft/deberta-xlarge-mnli": 40,
    "microsoft/deberta-v3-base": 9,
    "microsoft/deberta-v3-large": 12,
}


class BertScore(Score):
    """BERTScore of each completion, the maximum over its references: F1, precision or recall, about 0.8 to 1.

    The range is −1 to 1, but the embeddings of any two texts are similar. Long texts are truncated on the right.
    Without references, or for an empty text, the score is 0. A text's score is the same in every batch up to 1e-5.
    """

    name = "bert_score"
    slow = True

    def __init__(
        self,
        *,
        model: str | Path = "roberta-large",
        layer: int | None = None,
        part: Literal["f1", "precision", "recall"] = "f1",
        max_length: int | None = None,
        batch_size: int = 64,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        """Choose the model and the measure.

        Args:
            model: name or folder of an encoder; of an encoder-decoder model the encoder is used.
            layer: the layer whose outputs are the embeddings, from 1; None takes the authors' choice, which exists for
                the models that they tested: 17 for roberta-large.
            part: "f1", "precision" (of the completion's tokens) or "recall" (of the reference's).
            max_length: tokens read, special ones included; None reads what the model can, at most 512.
            batch_size: texts per forward pass.
            device: torch device; None takes the GPU if there is one.
            dtype: "float32", "bfloat16" or "float16".
        """
        check_choice("part", part, PARTS, usual="f1")
        check_run_settings(batch_size=batch_size, dtype=dtype)
        self.model = resolve_model(self.name, model, kind="encoder")
        self.layer = _layer(model, layer)
        self.part, self.max_length = part, max_length
        self.batch_size, self.device, self.dtype = batch_size, device, dtype

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the BERTScore of each completion, (B,)."""
        check_batch(prompts, completions, references, extras)
        texts = {text for c, targets in zip(completions, references, strict=True) if targets for text in (c, *targets)}
        embedded = self.encoder.embed(sorted(texts), max_length=self.max_length, batch_size=self.batch_size)
        part = PARTS.index(self.part)
        scores = [
            max((match(embedded[completion], embedded[target])[part] for target in targets), default=0.0)
            for completion, targets in zip(completions, references, strict=True)
        ]
        return np.array(scores, dtype=np.float64)

    @cached_property
    def encoder(self) -> Encoder:
        """The model, loaded when first needed."""
        return load_once(_load, self.model, self.layer, device=self.device, dtype=self.dtype)


class Embedded(NamedTuple):
    """The contextual embeddings of a text."""

    directions: Tensor  # (n, D), unit vectors
    counts: Tensor  # (n,) bool: a token of the text, not a special token around it


def match(completion: Embedded, target: Embedded) -> tuple[float, float, float]:
    """Return precision, recall and F1 of greedy matching: each token with the most similar one of the other text.

        P = mean over tokens x that count of max_y cos(x, y),  R with the texts swapped,  F1 = 2 P R / (P + R)

    Zhang et al. 2020, section 3. All are 0 if a text has no token that counts; F1 is 0 unless both are positive.
    """
    if not completion.counts.any() or not target.counts.any():
        return 0.0, 0.0, 0.0
    similar = completion.directions @ target.directions.T  # (n, m)
    precision = float(similar.max(1).values[completion.counts].mean())
    recall = float(similar.max(0).values[target.counts].mean())
    f1 = 2 * precision * recall / (precision + recall) if min(precision, recall) > 0 else 0.0
    return precision, recall, f1


class Encoder:
    """A model, truncated after the wanted layer, and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        from transformers import GPT2Tokenizer, RobertaTokenizer

        self.model, self.tokenizer = model.eval(), tokenizer
        tokenizer.truncation_side = "right"
        # These tokenizers need a leading space to tokenize the first word like any other.
        self._prefix = " " if isinstance(tokenizer, GPT2Tokenizer | RobertaTokenizer) else ""

    def embed(self, texts: Strings, *, max_length: int | None, batch_size: int) -> dict[str, Embedded]:
        """Return the embeddings of each of B texts."""
        found: dict[str, Embedded] = {}
        rows = [self._encode(text, self._length(max_length)) for text in texts]
        for chosen in batches_by_length([len(ids) for ids in rows], batch_size):
            hidden = self._forward([rows[row] for row in chosen])  # (B, L, D)
            for row, of_text in zip(chosen, hidden, strict=True):
                found[texts[row]] = self._embedded(texts[row], rows[row], of_text)
        return found

    def _length(self, max_length: int | None) -> int:
        least = self.tokenizer.num_special_tokens_to_add() + 1
        most = positions_of(self.model, self.tokenizer)
        return length_to_read(max_length, most=most, usual=USUAL_LENGTH, least=least)

    def _encode(self, text: str, max_length: int) -> list[int]:
        """Return the ids of a text; at least one, which may be padding."""
        plain = well_formed(text).strip()
        ids = self.tokenizer(plain and self._prefix + plain, truncation=True, max_length=max_length)["input_ids"]
        return ids or [self.tokenizer.cls_token_id or 0]

    def _forward(self, rows: list[list[int]]) -> Tensor:
        import torch

        inputs = pad(rows, self.model.config.pad_token_id or 0)
        with torch.inference_mode():
            outputs = self.model(**{name: x.to(self.model.device) for name, x in inputs.items()})
            return outputs.last_hidden_state.float().cpu()  # type: ignore[no-any-return]

    def _embedded(self, text: str, ids: list[int], hidden: Tensor) -> Embedded:
        import torch

        special = {self.tokenizer.cls_token_id, self.tokenizer.sep_token_id}
        counts = torch.tensor([token not in special and not _is_empty(text) for token in ids])
        return Embedded(torch.nn.functional.normalize(hidden[: len(ids)], dim=-1), counts)


def _is_empty(text: str) -> bool:
    return not text.strip()


def _layer(model: str | Path, layer: int | None) -> int:
    if layer is None and str(model) not in BEST_LAYERS:
        raise ValueError(
            f"bert_score needs layer= for {str(model)!r}: the authors published none; two thirds of its layers is"
            f" usual. They published one for {', '.join(BEST_LAYERS)}"
        )
    layer = BEST_LAYERS[str(model)] if layer is None else layer
    return check_integer("layer", layer, 1)


def _load(source: str, compute: ComputeSettings, layer: int) -> Encoder:
    from transformers import AutoModel

    config = load_config(source)
    if layer > config.num_hidden_layers:
        raise ValueError(f"layer must be at most {config.num_hidden_layers}, the layers of {source!r}, got {layer}")
    config.num_hidden_layers = layer  # the layers above are not loaded
    if config.is_encoder_decoder and hasattr(config, "encoder_layers"):
        config.encoder_layers = layer
    model, missing = from_pretrained(AutoModel, source, config=config, dtype=compute.dtype)
    if untrained := [name for name in missing if "pooler" not in name]:  # which is not used here
        raise ValueError(f"{source!r} is no trained encoder: it lacks {', '.join(untrained)}")
    return Encoder(
        (model.get_encoder() if config.is_encoder_decoder else model).to(compute.device), load_tokenizer(source)
    )
