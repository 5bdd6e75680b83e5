"""Sentiment: the probability that a sequence classifier gives to one label.

The classifier is any of the `transformers` library, by name or folder. Without one, a small one is fitted to labelled
train examples (`tiny_classifier.py`).

B texts.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tril_gym.rewards.fitting import Train, fit_once
from tril_gym.rewards.score import Extras, References, Scores, Texts, count_texts
from tril_gym.rewards.sequence_classifier import Classifier, check_folder, load_classifier

FOLDER = "sentiment"


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
        """
        if model is None and fitted is None and train is None:
            raise ValueError(
                "sentiment has no classifier; pass model=NAME or FOLDER of a sequence classifier, or "
                "train=[labelled examples] to fit a small one, or fitted=FOLDER where an earlier one was saved"
            )
        if model is not None and _is_path(model):
            model = Path(model).expanduser()
            check_folder(model)
        elif model is None and fitted is not None:
            check_folder(fitted / FOLDER)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}; the usual value is 64")
        self.label, self.with_prompt, self.max_length = label, with_prompt, max_length
        self.batch_size, self.device = batch_size, device
        self._train, self._fitted, self._model = train, fitted, model
        self._classifier: Classifier | None = None

    def __call__(self, prompts: Texts, completions: Texts, references: References, extras: Extras) -> Scores:
        """Return the probability of the label for each text, (B,) in [0, 1]."""
        num_texts = count_texts(prompts, completions, references, extras)
        pairs = zip(prompts if self.with_prompt else [""] * num_texts, completions, strict=True)
        texts = [f"{prompt} {completion.strip()}".strip() for prompt, completion in pairs]
        column, max_length = self.classifier.column(self.label), self.classifier.length(self.max_length)
        probabilities = self.classifier.probabilities(texts, max_length=max_length, batch_size=self.batch_size)
        return probabilities[:, column]  # (B, C) to (B,)

    @property
    def classifier(self) -> Classifier:
        """The classifier, fitted or loaded when first needed."""
        if self._classifier is None:
            self._classifier = load_classifier(self._model or self.fitted_folder, self.device)
        return self._classifier

    @property
    def fitted_folder(self) -> Path:
        """The folder of the fitted classifier, which is fitted when first needed."""
        from tril_gym.rewards import tiny_classifier

        if self._fitted is not None:
            return self._fitted / FOLDER
        assert self._train is not None, "__init__ lets no other case pass"
        return fit_once(self.name, self._train, tiny_classifier.fit)

    @property
    def held_out_accuracy(self) -> float | None:
        """Share right, of a tenth of the train examples held out of the fit; None for a named classifier."""
        from tril_gym.rewards.tiny_classifier import REPORT

        if self._model is not None:
            return None
        return float(json.loads((self.fitted_folder / REPORT).read_text())["held_out_accuracy"])

    def save(self, folder: Path) -> None:
        """Write the classifier if it was fitted; one that was named stays where it is."""
        if self._model is None:
            shutil.copytree(self.fitted_folder, folder / FOLDER, dirs_exist_ok=True)


def _is_path(model: str | Path) -> bool:
    """Say whether this can only be a folder, or is one: "owner/name" and "name" belong to the hub otherwise."""
    text = str(model)
    marked = isinstance(model, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1
    return marked or Path(text).is_dir()
