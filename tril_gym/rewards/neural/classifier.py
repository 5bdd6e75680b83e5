"""The probability that a sequence classifier gives to one label: of sentiment, or of anything else.

The classifier is any of the `transformers` library, by name or folder. For sentiment a small one can be fitted to
labelled train examples instead (`tiny_classifier.py`).

B texts, C labels.
"""

from __future__ import annotations

import json
import shutil
from functools import cached_property
from pathlib import Path
from typing import Literal

from tril_gym.rewards.base import Extras, References, Scores, Texts, check_batch
from tril_gym.rewards.fitting import Train, fit_once
from tril_gym.rewards.neural.pretrained import check_folder, check_running, resolve_model
from tril_gym.rewards.neural.sequence_classifier import Classifier, load_classifier

FOLDER = "sentiment"
KIND = "sequence classifier"


class Sentiment:
    """Probability of a label, positive by default, 0 to 1.

    Long texts lose their beginning: prompt first, the completion last. The probability of a text is the same in every
    batch up to 1e-5.
    """

    name = "sentiment"
    slow = True

    def __init__(
        self,
        *,
        train: Train | None = None,
        fitted: Path | None = None,
        model: str | Path | None = None,
        label: int | str | None = None,
        with_prompt: bool = True,
        max_length: int | None = None,
        batch_size: int = 64,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        """Choose the classifier and how to read it.

        Args:
            train: labelled examples to fit a small classifier on, where no model is named.
            fitted: the folder where an earlier fit was saved.
            model: name or folder of a sequence classifier.
            label: whose probability, by index or name; None takes the label called positive, else index 1.
            with_prompt: judge prompt and completion together, not the completion alone.
            max_length: tokens read, counted from the end; None takes what the model can read, at most 512.
            batch_size: texts per forward pass.
            device: where to run; None takes the GPU where there is one.
            dtype: "float32", "bfloat16" or "float16".
        """
        if model is None and fitted is None and train is None:
            raise ValueError(
                "sentiment has no classifier; pass model=NAME or FOLDER of a sequence classifier, or "
                "train=[labelled examples] to fit a small one, or fitted=FOLDER where an earlier one was saved"
            )
        if model is not None:
            model = resolve_model(self.name, model, what=KIND)
        elif fitted is not None:
            check_folder(fitted / FOLDER, what="classifier")
        check_running(batch_size=batch_size, dtype=dtype)
        self.label, self.with_prompt, self.max_length = label, with_prompt, max_length
        self.batch_size, self.device, self.dtype = batch_size, device, dtype
        self._train, self._fitted, self._model = train, fitted, model
        self._classifier: Classifier | None = None

    def __call__(self, prompts: Texts, completions: Texts, references: References, extras: Extras) -> Scores:
        """Return the probability of the label for each text, (B,) in [0, 1]."""
        check_batch(prompts, completions, references, extras)
        texts = read_texts(prompts, completions, with_prompt=self.with_prompt)
        column, max_length = self.classifier.column(self.label), self.classifier.length(self.max_length)
        probabilities = self.classifier.probabilities(texts, max_length=max_length, batch_size=self.batch_size)
        return probabilities[:, column]  # (B, C) to (B,)

    @property
    def classifier(self) -> Classifier:
        """The classifier, fitted or loaded when first needed."""
        if self._classifier is None:
            self._classifier = load_classifier(self._model or self.fitted_folder, self.device, self.dtype)
        return self._classifier

    @property
    def fitted_folder(self) -> Path:
        """The folder of the fitted classifier, which is fitted when first needed."""
        from tril_gym.rewards.neural import tiny_classifier

        if self._fitted is not None:
            return self._fitted / FOLDER
        assert self._train is not None, "__init__ lets no other case pass"
        return fit_once(self.name, self._train, tiny_classifier.fit)

    @property
    def held_out_accuracy(self) -> float | None:
        """Share right, of a tenth of the train examples held out of the fit; None for a named classifier."""
        from tril_gym.rewards.neural.tiny_classifier import REPORT

        if self._model is not None:
            return None
        return float(json.loads((self.fitted_folder / REPORT).read_text())["held_out_accuracy"])

    def save(self, folder: Path) -> None:
        """Write the classifier if it was fitted; one that was named stays where it is."""
        if self._model is None:
            shutil.copytree(self.fitted_folder, folder / FOLDER, dirs_exist_ok=True)


class Classification:
    """What any sequence classifier says of one label: its probability, 0 to 1, or the model's raw output, the logit.

    Prompt and completion are read as one text, a space between them and none around it. Long texts lose their
    beginning. An empty text gets what the model says of one. A text's score is the same in every batch up to 1e-5.
    """

    name = "classifier"
    slow = True

    def __init__(
        self,
        *,
        model: str | Path | None = None,
        label: int | str | None = None,
        output: Literal["probability", "logit"] = "probability",
        with_prompt: bool = True,
        max_length: int | None = None,
        batch_size: int = 64,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        """Choose the classifier and how to read it.

        Args:
            model: name or folder of a sequence classifier.
            label: by index or name; it may be left out where there is only one, or one that is called positive.
            output: "probability", or the "logit" it is computed from.
            with_prompt: judge prompt and completion together, not the completion alone.
            max_length: tokens read, counted from the end; None takes what the model can read, at most 512.
            batch_size: texts per forward pass.
            device: where to run; None takes the GPU where there is one.
            dtype: "float32", "bfloat16" or "float16".
        """
        if output not in ("probability", "logit"):
            raise ValueError(f'output must be "probability" or "logit", got {output!r}; the usual one is "probability"')
        check_running(batch_size=batch_size, dtype=dtype)
        self.model = resolve_model(self.name, model, what=KIND)
        self.label, self.output, self.with_prompt, self.max_length = label, output, with_prompt, max_length
        self.batch_size, self.device, self.dtype = batch_size, device, dtype

    def __call__(self, prompts: Texts, completions: Texts, references: References, extras: Extras) -> Scores:
        """Return the probability or logit of the label for each text, (B,)."""
        check_batch(prompts, completions, references, extras)
        texts = read_texts(prompts, completions, with_prompt=self.with_prompt)
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


def read_texts(prompts: Texts, completions: Texts, *, with_prompt: bool) -> list[str]:
    """Return what a classifier reads of B texts: prompt and completion, or the completion alone."""
    prompts = prompts if with_prompt else [""] * len(completions)
    pairs = zip(prompts, completions, strict=True)
    return [f"{prompt} {completion.strip()}".strip() for prompt, completion in pairs]
