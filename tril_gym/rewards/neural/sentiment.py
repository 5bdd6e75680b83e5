"""Probability of a positive text, by a sequence classifier: one by name or folder, or a small one fitted to examples.

The fitted classifier is an ordinary `transformers` folder with a `fit.json` beside the weights. It is kept in the
user's cache folder.

B texts, C labels.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from tril_gym.rewards.base import Extras, ReferenceLists, Score, Scores, Strings, check_batch
from tril_gym.rewards.fitting import ExampleLike, Train, fit_once
from tril_gym.rewards.neural import training
from tril_gym.rewards.neural.classifier import MODEL_KIND, join_texts
from tril_gym.rewards.neural.pretrained import check_folder, check_run_settings, resolve_model
from tril_gym.rewards.neural.sequence_classifier import Classifier, load_classifier
from tril_gym.utils.cache import cache_root
from tril_gym.utils.threads import cpu_threads

logger = logging.getLogger(__name__)

FOLDER = "sentiment"
REPORT = "fit.json"
MIN_EXAMPLES = 20
LABELS = ("NEGATIVE", "POSITIVE")
FIT_CONFIG = training.DEFAULT


class Sentiment(Score):
    """Probability of a label, positive by default, 0 to 1.

    Long texts are truncated on the left: the prompt first, then the completion. The probability of a text
    is the same in every batch up to 1e-5.
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
            train: labelled examples to fit a small classifier on, if no model is named.
            fitted: a folder that `save` wrote.
            model: name or folder of a sequence classifier.
            label: index or name of the label; None takes the label called positive, else index 1.
            with_prompt: score prompt and completion together, not the completion alone.
            max_length: tokens read, counted from the end; None reads what the model can, at most 512.
            batch_size: texts per forward pass.
            device: torch device; None takes the GPU if there is one.
            dtype: "float32", "bfloat16" or "float16".
        """
        if model is None and fitted is None and train is None:
            raise ValueError(
                "sentiment has no classifier; pass model=NAME or FOLDER of a sequence classifier, or "
                "train=[labelled examples] to fit a small one, or fitted=FOLDER where an earlier one was saved"
            )
        if model is not None:
            model = resolve_model(self.name, model, kind=MODEL_KIND)
        elif fitted is not None:
            check_folder(fitted / FOLDER, kind="classifier")
        check_run_settings(batch_size=batch_size, dtype=dtype)
        self.label, self.with_prompt, self.max_length = label, with_prompt, max_length
        self.batch_size, self.device, self.dtype = batch_size, device, dtype
        self._train, self._fitted, self._model = train, fitted, model

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the probability of the label for each text, (B,) in [0, 1]."""
        check_batch(prompts, completions, references, extras)
        texts = join_texts(prompts, completions, with_prompt=self.with_prompt)
        column, max_length = self.classifier.column(self.label), self.classifier.length(self.max_length)
        probabilities = self.classifier.probabilities(texts, max_length=max_length, batch_size=self.batch_size)
        return probabilities[:, column]  # (B, C) to (B,)

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier, fitted or loaded when first needed."""
        return load_classifier(self._model or self.fitted_folder, self.device, self.dtype)

    @property
    def fitted_folder(self) -> Path:
        """The folder of the fitted classifier, which is fitted when first needed."""
        if self._fitted is not None:
            return self._fitted / FOLDER
        assert self._train is not None  # checked in __init__
        return fit_once(self.name, self._train, fit)

    @property
    def held_out_accuracy(self) -> float | None:
        """Accuracy on the tenth of the train examples held out of the fit; None for a named classifier."""
        if self._model is not None:
            return None
        return float(json.loads((self.fitted_folder / REPORT).read_text())["held_out_accuracy"])

    def save(self, folder: Path) -> None:
        """Write the classifier if it was fitted; a named one is not copied."""
        if self._model is None:
            shutil.copytree(self.fitted_folder, folder / FOLDER, dirs_exist_ok=True)


def fit(examples: Sequence[ExampleLike], fingerprint: str) -> Path:
    """Return the folder of the classifier for these examples, fitting it if the cache has none."""
    config = FIT_CONFIG
    folder, report = training.fitted_folder(
        "sentiment", fingerprint, asdict(config), lambda empty: _fit(examples, config, empty), REPORT
    )
    logger.info("sentiment classifier: accuracy %(held_out_accuracy).3f on %(held_out)d held-out texts", report)
    return folder


def labelled_texts(examples: Sequence[ExampleLike]) -> list[tuple[str, int]]:
    """Return text and label, 0 or 1, of the examples that have one; the text is prompt and first reference."""
    labelled = [
        (" ".join([example.prompt, *example.references[:1]]).strip(), example.label)
        for example in examples
        if example.label is not None
    ]
    counts = dict(Counter(label for _, label in labelled))
    if set(counts) != {0, 1} or len(labelled) < MIN_EXAMPLES:
        raise ValueError(
            f"sentiment fits a classifier on at least {MIN_EXAMPLES} train examples with label 0 (negative) or "
            f"1 (positive), both kinds; got {counts or 'none with a label'}. Give it more, or name one with model="
        )
    return labelled


def _fit(examples: Sequence[ExampleLike], config: training.FitConfig, folder: Path) -> None:
    """Write a classifier and its tokenizer, fitted to the examples, and its accuracy on those held out."""
    from tril_gym.utils.seeding import seeded

    labelled = labelled_texts(examples)
    rng = random.Random(config.seed)
    rng.shuffle(labelled)
    num_held_out = max(1, round(config.held_out * len(labelled)))
    kept, held_out = labelled[num_held_out:], labelled[:num_held_out]

    logger.warning(
        "fitting the sentiment classifier to %d labelled texts, which takes a minute or two; it is kept in %s",
        len(kept),
        cache_root(),
    )
    tokenizer = training.train_tokenizer([text for text, _ in kept], config)
    train_rows, held_out_rows = training.encode(tokenizer, kept), training.encode(tokenizer, held_out)
    with seeded(config.seed), cpu_threads(1):
        model = training.build_model(tokenizer, config, LABELS)
        description = "fitting the sentiment classifier (cached for the next run)"
        training.train_model(model, train_rows, config, rng, description=description)
    accuracy = training.accuracy_of(model, held_out_rows, config)

    report = {"held_out_accuracy": accuracy, "held_out": num_held_out}
    training.save_fitted(model, tokenizer, folder, REPORT, report)
