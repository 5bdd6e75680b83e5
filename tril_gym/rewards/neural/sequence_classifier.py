"""Sequence classifiers of the `transformers` library, with outputs that do not depend on the batch.

B texts, L tokens of the longest, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tril_gym.rewards.base import Scores, Strings, well_formed
from tril_gym.rewards.neural.pretrained import (
    USUAL_LENGTH,
    ComputeSettings,
    Ids,
    batches_by_length,
    from_pretrained,
    length_to_read,
    load_once,
    pad,
    positions_of,
)
from tril_gym.utils.tokenization import load_tokenizer, without_own_bos

Side = Literal["left", "right"]


class Classifier:
    """A model and its tokenizer, owned by this object, which sets their truncation and padding."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.config = model.config
        self.pad_id = _padding(model, tokenizer)
        # A decoder's output is at the last token that is not this one.
        self.config.pad_token_id = -1 if self.pad_id is None else self.pad_id

    @property
    def labels(self) -> list[str]:
        """The names of the C labels, in the order of the model's outputs."""
        return [str(self.config.id2label[index]) for index in range(self.config.num_labels)]

    def column(self, label: int | str | None) -> int:
        """Return the index of a label; None is the label called positive, else index 1, or 0 if it is the only one."""
        lowered = [name.lower() for name in self.labels]
        if label is None:
            positive = self.positive
            return min(1, len(lowered) - 1) if positive is None else positive
        if isinstance(label, int) and 0 <= label < len(lowered):
            return label
        if str(label).lower() not in lowered:
            raise ValueError(f"the classifier has no label {label!r}; its labels are {dict(enumerate(self.labels))}")
        return lowered.index(str(label).lower())

    @property
    def positive(self) -> int | None:
        """The index of the label called positive, if there is one."""
        found = (index for index, name in enumerate(self.labels) if name.lower() in ("positive", "pos"))
        return next(found, None)

    def length(self, max_length: int | None, *, usual: int = USUAL_LENGTH, pair: bool = False) -> int:
        """Return the number of tokens to read, with special ones; None is the model's maximum, at most `usual`."""
        least = self.tokenizer.num_special_tokens_to_add(pair=pair) + 1 + pair
        most = positions_of(self.model, self.tokenizer)
        return length_to_read(max_length, most=most, usual=usual, least=least)

    def probabilities(self, texts: Strings, *, max_length: int, batch_size: int) -> Scores:
        """Return the probability of each label for each text, (B, C); long texts are truncated on the left."""
        logits = self.logits(texts, max_length=max_length, batch_size=batch_size)  # (B, C)
        if self.config.num_labels == 1 or self.config.problem_type == "multi_label_classification":
            return _sigmoid(logits)
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    def logits(
        self,
        texts: Strings,
        seconds: Strings | None = None,
        *,
        max_length: int,
        batch_size: int,
        truncation: str = "longest_first",
        side: Side = "left",
        add_special_tokens: bool = True,
    ) -> Scores:
        """Return the outputs of the model for each text, (B, C).

        Args:
            texts: B texts.
            seconds: the second text of each pair, if the model reads pairs.
            max_length: tokens read, including special tokens.
            batch_size: texts per forward pass.
            truncation: which text of a pair is truncated: "longest_first", "only_first" or "only_second".
            side: the side on which long texts are truncated.
            add_special_tokens: whether the tokenizer adds special tokens; a rendered chat has all of its own.
        """
        found = np.empty((len(texts), self.config.num_labels))
        if not len(texts):
            return found
        self.tokenizer.truncation_side = side
        firsts = [*map(well_formed, texts)]
        firsts = without_own_bos(self.tokenizer, firsts) if add_special_tokens else firsts
        pairs = [firsts] if seconds is None else [firsts, [*map(well_formed, seconds)]]
        try:
            encoded = self.tokenizer(
                *pairs, truncation=truncation, max_length=max_length, add_special_tokens=add_special_tokens
            )
        except Exception as error:  # of the library tokenizers, which has no type of its own
            if truncation == "longest_first":
                raise
            other = "second" if truncation == "only_first" else "first"
            raise ValueError(
                f"truncation={truncation!r} leaves no room: the {other} text of a pair alone has {max_length} tokens or"
                " more; longest_first truncates both"
            ) from error
        rows = [ids or [self._filler] for ids in encoded["input_ids"]]
        self._check_ids(rows)
        segments = encoded.get("token_type_ids")
        for chosen in batches_by_length([len(ids) for ids in rows], batch_size, self._groups(rows)):
            # If the model has no padding, all rows of a batch have one length.
            inputs = pad([rows[row] for row in chosen], self.pad_id or 0)
            if segments is not None:
                inputs["token_type_ids"] = pad([segments[row] or [0] for row in chosen], 0)["input_ids"]
            found[chosen] = self._forward(inputs)
        return found

    def _check_ids(self, rows: Sequence[Ids]) -> None:
        """Raise ValueError for ids without an embedding; on a GPU they would crash the process."""
        highest, words = max(map(max, rows)), self.model.get_input_embeddings().num_embeddings
        if highest >= words:
            raise ValueError(
                f"the tokenizer gives the id {highest} and the model has {words} embeddings; name the tokenizer that"
                " the model was trained with"
            )

    @property
    def _filler(self) -> int:
        """The id of a text without tokens, such as an empty one for a decoder's tokenizer."""
        candidates = (self.pad_id, self.tokenizer.eos_token_id, self.tokenizer.bos_token_id, 0)
        return next(token for token in candidates if token is not None)

    def _groups(self, rows: Sequence[Ids]) -> list[int] | None:
        """Return the group of each row; only rows of one group share a batch. None if all can."""
        if self.pad_id is None:
            return [len(ids) for ids in rows]
        if self.config.is_encoder_decoder:  # it requires the same number of EOS in all rows
            return [ids.count(self.config.eos_token_id) for ids in rows]
        return None

    def _forward(self, inputs: dict[str, Any]) -> Scores:
        import torch

        with torch.inference_mode():
            logits = self.model(**{name: x.to(self.model.device) for name, x in inputs.items()}).logits
            return logits.double().cpu().numpy()  # type: ignore[no-any-return]


def load_classifier(source: str | Path, device: str | None, dtype: str = "float32") -> Classifier:
    """Return the classifier of that name or in that folder, one per process; None takes the GPU if there is one."""
    return load_once(_load, str(source), device=device, dtype=dtype)


def _load(source: str, compute: ComputeSettings) -> Classifier:
    from transformers import AutoModelForSequenceClassification

    model, missing = from_pretrained(AutoModelForSequenceClassification, source, dtype=compute.dtype)
    if missing:
        raise ValueError(f"{source!r} is no trained sequence classifier: it lacks {', '.join(missing)}")
    return Classifier(model.to(compute.device), load_tokenizer(source))


def _padding(model: Any, tokenizer: Any) -> int | None:
    """Return the id of padding: the model's, else the tokenizer's if the model has it; None if there is none.

    With the model's own padding id, a decoder's output is taken at the token it was trained on.
    """
    words = model.get_input_embeddings().num_embeddings
    for pad_id in (model.config.pad_token_id, tokenizer.pad_token_id):
        if pad_id is not None and 0 <= pad_id < words:
            return int(pad_id)
    return None


def _sigmoid(x: Scores) -> Scores:
    return np.exp(-np.logaddexp(0.0, -x))
