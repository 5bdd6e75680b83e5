"""Learned metrics that map a pair of reference and completion to one number, such as BLEURT.

Any sequence classifier of the `transformers` library with one output: BLEURT (Sellam et al. 2020,
https://aclanthology.org/2020.acl-main.704), cross-encoders of similarity, your own regressors.

B texts, N pairs of a reference and a completion.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from tril_gym.rewards.base import Extras, Reduction, ReferenceLists, Score, Scores, Strings, check_batch
from tril_gym.rewards.neural.pretrained import check_run_settings, resolve_model
from tril_gym.rewards.neural.sequence_classifier import Classifier, load_classifier
from tril_gym.utils.config_fields import check_choice

BLEURT = "Elron/bleurt-base-512"  # the published checkpoint, converted to transformers
Truncation = Literal["longest_first", "only_first", "only_second"]


class Regressor(Score):
    """The output of a model that reads (reference, completion); its range depends on the model.

    The raw output without a sigmoid, whatever the model was trained for. An empty completion is read as an empty text.
    A pair's score is the same in every batch up to 1e-5.

    Raises:
        ValueError: a text has no references, so that no score would be right; or the model has several outputs.
    """

    name = "regressor"
    slow = True

    def __init__(
        self,
        *,
        model: str | Path | None = None,
        reduction: Reduction = "max",
        truncation: Truncation = "longest_first",
        max_length: int | None = None,
        batch_size: int = 64,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        """Choose the model and how to read it.

        Args:
            model: name or folder of a sequence classifier with one output.
            reduction: "max" or "mean" of the scores with several references.
            truncation: which text of a long pair is truncated on the right: "longest_first" removes token by token from
                the longer one, "only_first" truncates the reference, "only_second" the completion.
            max_length: tokens read of a pair, including special tokens; None reads what the model can, at most 512.
            batch_size: pairs per forward pass.
            device: torch device; None takes the GPU if there is one.
            dtype: "float32", "bfloat16" or "float16".
        """
        check_choice("reduction", reduction, get_args(Reduction), usual="max")
        check_choice("truncation", truncation, get_args(Truncation), usual="longest_first")
        check_run_settings(batch_size=batch_size, dtype=dtype)
        self.model = resolve_model(self.name, model, kind="sequence classifier")
        self.reduction, self.truncation, self.max_length = reduction, truncation, max_length
        self.batch_size, self.device, self.dtype = batch_size, device, dtype

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the score of each completion, (B,)."""
        num_texts = check_batch(prompts, completions, references, extras)
        check_has_references(self.name, references)
        pairs = [(t, c) for c, targets in zip(completions, references, strict=True) for t in targets]
        outputs = self._outputs([target for target, _ in pairs], [completion for _, completion in pairs])  # (N,)
        ends = np.cumsum([len(targets) for targets in references], dtype=int)
        of_texts = np.split(outputs, ends[:-1]) if num_texts else []
        pooled = np.max if self.reduction == "max" else np.mean
        return np.array([pooled(of_one) for of_one in of_texts], dtype=np.float64)

    def _outputs(self, targets: Strings, completions: Strings) -> Scores:
        max_length = self.regressor.length(self.max_length, pair=True)
        logits = self.regressor.logits(
            targets,
            completions,
            max_length=max_length,
            batch_size=self.batch_size,
            truncation=self.truncation,
            side="right",
        )
        return logits[:, 0]  # (N, 1) to (N,)

    @cached_property
    def regressor(self) -> Classifier:
        """The model, loaded when first needed."""
        loaded = load_classifier(self.model, self.device, self.dtype)
        if len(loaded.labels) != 1:
            raise ValueError(
                f"{self.name} needs a model with one output, {self.model!r} has {len(loaded.labels)}: {loaded.labels}"
            )
        return loaded


def bleurt(
    *,
    model: str | Path = BLEURT,
    reduction: Reduction = "max",
    max_length: int | None = None,
    batch_size: int = 64,
    device: str | None = None,
    dtype: str = "float32",
) -> Regressor:
    """Return BLEURT: about 0 for an unrelated completion, about 1 for one with the same meaning.

    Args:
        model: name or folder of a BLEURT checkpoint that `transformers` can load.
        reduction: "max" or "mean" of the scores with several references.
        max_length: tokens read of a pair; the longer text is truncated first.
        batch_size: pairs per forward pass.
        device: torch device; None takes the GPU if there is one.
        dtype: "float32", "bfloat16" or "float16".
    """
    score = Regressor(
        model=model, reduction=reduction, max_length=max_length, batch_size=batch_size, device=device, dtype=dtype
    )
    score.name = "bleurt"
    return score


def check_has_references(reward: str, references: ReferenceLists) -> None:
    """Raise ValueError if a text has no references."""
    missing = [row for row, targets in enumerate(references) if not targets]
    if missing:
        raise ValueError(
            f"{reward} compares with references, and {len(missing)} of {len(references)} texts have none, the first is"
            f" text {missing[0]} of the batch; use data with references, or a reward that needs none"
        )
