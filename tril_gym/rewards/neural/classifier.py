"""Probability or logit of one label under any sequence classifier of the `transformers` library.

B texts, C labels.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from tril_gym.rewards.base import Extras, ReferenceLists, Score, Scores, Strings, check_batch
from tril_gym.rewards.neural.pretrained import check_run_settings, resolve_model
from tril_gym.rewards.neural.sequence_classifier import Classifier, load_classifier
from tril_gym.utils.config_fields import check_choice

MODEL_KIND = "sequence classifier"
Output = Literal["probability", "logit"]


class Classification(Score):
    """Probability, 0 to 1, or logit of one label under a sequence classifier.

    Prompt and completion are read as one text, joined by a space and stripped. Long texts are truncated on the left.
    An empty text gets the model's output for an empty text. A text's score is the same in every batch up to 1e-5.
    """

    name = "classifier"
    slow = True

    def __init__(
        self,
        *,
        model: str | Path | None = None,
        label: int | str | None = None,
        output: Output = "probability",
        with_prompt: bool = True,
        max_length: int | None = None,
        batch_size: int = 64,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        """Choose the classifier and how to read it.

        Args:
            model: name or folder of a sequence classifier.
            label: index or name; optional if the classifier has one label, or one that is called positive.
            output: "probability", or the "logit" it is computed from.
            with_prompt: score prompt and completion together, not the completion alone.
            max_length: tokens read, counted from the end; None reads what the model can, at most 512.
            batch_size: texts per forward pass.
            device: torch device; None takes the GPU if there is one.
            dtype: "float32", "bfloat16" or "float16".
        """
        check_choice("output", output, get_args(Output), usual="probability")
        check_run_settings(batch_size=batch_size, dtype=dtype)
        self.model = resolve_model(self.name, model, kind=MODEL_KIND)
        self.label, self.output, self.with_prompt, self.max_length = label, output, with_prompt, max_length
        self.batch_size, self.device, self.dtype = batch_size, device, dtype

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the probability or logit of the label for each text, (B,)."""
        check_batch(prompts, completions, references, extras)
        texts = join_texts(prompts, completions, with_prompt=self.with_prompt)
        column, max_length = self._column(), self.classifier.length(self.max_length)
        read = self.classifier.probabilities if self.output == "probability" else self.classifier.logits
        return read(texts, max_length=max_length, batch_size=self.batch_size)[:, column]  # (B, C) to (B,)

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier, loaded when first needed."""
        return load_classifier(self.model, self.device, self.dtype)

    def _column(self) -> int:
        labels = self.classifier.labels
        if self.label is None and len(labels) > 1 and self.classifier.positive is None:
            raise ValueError(
                f"classifier needs label=, the one to score: no label of {self.model!r} is called positive; its labels"
                f" are {dict(enumerate(labels))}"
            )
        return self.classifier.column(self.label)


def join_texts(prompts: Strings, completions: Strings, *, with_prompt: bool) -> list[str]:
    """Return the B texts that a classifier reads: prompt and completion, or the completion alone."""
    prompts = prompts if with_prompt else [""] * len(completions)
    pairs = zip(prompts, completions, strict=True)
    return [f"{prompt} {completion.strip()}".strip() for prompt, completion in pairs]
