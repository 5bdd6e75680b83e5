"""A learned reward: the output of a model that was trained on human preferences between completions.

A sequence classifier with one output (Stiennon et al. 2020, https://arxiv.org/abs/2009.01325): a whole model, or an
adapter on a base. The base of an adapter can share the tensors of a model in memory, such as the policy's frozen base;
the reward then needs only the memory of the adapter.

B texts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tril_gym.rewards.base import Extras, ReferenceLists, Score, Scores, Strings, check_batch
from tril_gym.rewards.fitting import Train, fit_once
from tril_gym.rewards.neural.adapters import (
    attach_adapter,
    classifier_on,
    download_adapter,
    is_adapter,
    load_with_adapter,
    tokenizer_source,
)
from tril_gym.rewards.neural.preference_fit import fit, pair_fields
from tril_gym.rewards.neural.pretrained import (
    ComputeSettings,
    check_folder,
    check_run_settings,
    from_pretrained,
    load_once,
    resolve_model,
)
from tril_gym.rewards.neural.regressor import check_has_references
from tril_gym.rewards.neural.sequence_classifier import Classifier
from tril_gym.utils.chats import PROMPT_MESSAGES, Message
from tril_gym.utils.lru_cache import LRUCache
from tril_gym.utils.templates import check_fields
from tril_gym.utils.tokenization import joiner_between, load_tokenizer, render_chat

FOLDER = "preference"
TEMPLATE = "{prompt}{completion}"
REPORT = "reward_model.json"  # written beside the weights by the training of a reward model
USUAL_LENGTH = 1024  # tokens, the default maximum: a post and its summary
CACHED_TEXTS = 4096  # scores of references, which recur each time their example is drawn


class Text(NamedTuple):
    """What a reward model reads."""

    content: str
    is_chat: bool  # rendered by the model's template, with all special tokens


class Preference(Score):
    """The output of a reward model for prompt and completion, on the model's own scale: any number, not a probability.

    A chat is read as the reward model's own chat template renders it, the completion as the assistant's message, if the
    model has such a template and no reward_model.json. All other texts are laid out by `template`.

    Long texts are truncated on the left: first the beginning of the template and of the prompt. An empty completion
    gets the model's output for the prompt alone. A text's score is the same in every batch up to 1e-5.

    Without a model a small one is fitted to the train examples that have a rejected completion; see `preference_fit`.

    Raises:
        ValueError: the model is no trained reward model, or there is none and nothing to fit one to; or with
            `minus_reference` a text has no references.
    """

    name = "preference"
    slow = True

    def __init__(
        self,
        *,
        train: Train | None = None,
        fitted: Path | None = None,
        model: str | Path | None = None,
        template: str | None = None,
        chat: bool | None = None,
        tokenizer: str | Path | None = None,
        minus_reference: bool = False,
        max_length: int | None = None,
        batch_size: int = 64,
        device: str | None = None,
        dtype: str = "float32",
        base: Any = None,
    ) -> None:
        """Choose the reward model and how to read it.

        Args:
            train: examples to fit a small reward model on, if no model is named.
            fitted: a folder that `save` wrote.
            model: name or folder of a sequence classifier with one output, or of an adapter of peft.
            template: format of the model's input with {prompt} and {completion}; None takes the one in
                reward_model.json of the model's folder, else "{prompt}{completion}".
            chat: read chats by the chat template of the reward model's tokenizer; None: if there is one, and neither
                `template` nor a reward_model.json.
            tokenizer: name or folder; None takes the model's, or its base's.
            minus_reference: subtract the score of the first reference; it begins with a space if the completion does.
            max_length: tokens read, counted from the end; None takes the number in reward_model.json, else what
                the model can read, at most 1024.
            batch_size: texts per forward pass.
            device: torch device; None takes the GPU if there is one.
            dtype: "float32", "bfloat16" or "float16".
            base: the adapter's base in memory, a plain model of `transformers` whose tensors are shared and must not
                change or move; device and dtype are then those of the base.
        """
        check_run_settings(batch_size=batch_size, dtype=dtype)
        self._train, self._fitted, self._model = train, None if model is not None else fitted, None
        if self._fitted is not None:
            check_folder(self._fitted / FOLDER, kind="reward model")
        elif model is not None or train is None:
            self._model = resolve_model(self.name, model, kind="reward model", allow_adapter=True)
        if base is not None and not (self._model and is_adapter(self._model)):
            raise ValueError(f"base is for an adapter, and {self._model!r} is a whole model; leave base out")
        folder = self._fitted / FOLDER if self._fitted else self._model
        report = {} if folder is None else _report(Path(folder))
        self.template = report.get("template", TEMPLATE) if template is None else template
        self.max_length = report.get("max_length") if max_length is None else max_length
        check_template(self.template)
        if chat and template is not None:
            raise ValueError("template is for texts and chat=True for the chat template; leave one of them out")
        self._reads_chats = False if chat is None and (template is not None or report or folder is None) else chat
        self.tokenizer = None if tokenizer is None else str(tokenizer)
        self.minus_reference, self.batch_size, self.device, self.dtype = minus_reference, batch_size, device, dtype
        self._base = base
        self._reference_scores = LRUCache[Text, float](CACHED_TEXTS)

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the reward of each completion, (B,)."""
        check_batch(prompts, completions, references, extras)
        if self.minus_reference:
            check_has_references(f"{self.name} with minus_reference", references)
        scores = self._scores(self._texts(prompts, completions, extras))
        if self.minus_reference:
            rows = zip(prompts, completions, references, strict=True)
            written = [_as_written(prompt, completion, targets[0]) for prompt, completion, targets in rows]
            texts = self._texts(prompts, written, extras)
            scores = scores - np.array(self._reference_scores.get_many(texts, lambda new: self._scores(new).tolist()))
        return scores

    def _texts(self, prompts: Strings, completions: Strings, extras: Extras) -> list[Text]:
        """Return the texts that the model reads."""
        rows = zip(prompts, completions, extras, strict=True)
        return [self._text(prompt, completion, extra.get(PROMPT_MESSAGES)) for prompt, completion, extra in rows]

    def _text(self, prompt: str, completion: str, messages: Sequence[Message] | None) -> Text:
        if messages is None or not self.reads_chats:
            return Text(self.template.format(prompt=prompt, completion=completion), is_chat=False)
        answer = {"role": "assistant", "content": completion}
        return Text(render_chat(self.classifier.tokenizer, [*messages, answer], is_open=False), is_chat=True)

    @cached_property
    def reads_chats(self) -> bool:
        """Whether prompts that are chats are read by the chat template of the model's tokenizer."""
        has_template = getattr(self.classifier.tokenizer, "chat_template", None) is not None
        if self._reads_chats and not has_template:
            raise ValueError(
                f"the tokenizer of {self.model!r} has no chat template for chat=True; leave it out, and say how the"
                " model reads texts by template="
            )
        return has_template and self._reads_chats is not False

    def _scores(self, texts: Sequence[Text]) -> Scores:
        max_length = self.classifier.length(self.max_length, usual=USUAL_LENGTH)
        settings: dict[str, Any] = {"max_length": max_length, "batch_size": self.batch_size}
        found = np.empty(len(texts))
        for is_chat in (False, True):
            rows = [row for row, text in enumerate(texts) if text.is_chat == is_chat]
            if rows:
                plain = [texts[row].content for row in rows]
                found[rows] = self.classifier.logits(plain, **settings, add_special_tokens=not is_chat)[:, 0]
        return found

    @cached_property
    def model(self) -> str:
        """Name or folder of the reward model, which is fitted when first needed if none is named."""
        return self._model or str(self.fitted_folder)

    @property
    def fitted_folder(self) -> Path:
        """The folder of the fitted reward model."""
        if self._fitted is not None:
            return self._fitted / FOLDER
        assert self._train is not None  # checked in __init__
        fit_here = partial(fit, template=self.template, report_file=REPORT)
        return fit_once(f"{self.name} {self.template}", self._train, fit_here, fields=pair_fields)

    def save(self, folder: Path) -> None:
        """Write the reward model if it was fitted; a named one is not copied."""
        if self._model is None:
            shutil.copytree(self.fitted_folder, folder / FOLDER, dirs_exist_ok=True)

    @cached_property
    def classifier(self) -> Classifier:
        """The model and its tokenizer, loaded when first needed."""
        tokenizer = self.tokenizer or tokenizer_source(self.model)
        if self._base is None:
            return load_once(_load, self.model, tokenizer, device=self.device, dtype=self.dtype)
        model, missing = classifier_on(self._base)
        return Classifier(attach_adapter(model, Path(self.model), missing), load_tokenizer(tokenizer))


def _load(source: str, compute: ComputeSettings, tokenizer: str) -> Classifier:
    from transformers import AutoModelForSequenceClassification

    source = download_adapter(source)
    if is_adapter(source):
        # The base may have a head of another shape; the adapter has its own.
        settings = {"num_labels": 1, "ignore_mismatched_sizes": True}
        model = load_with_adapter(AutoModelForSequenceClassification, source, compute, **settings)
        return Classifier(model, load_tokenizer(tokenizer))
    model, missing = from_pretrained(AutoModelForSequenceClassification, source, dtype=compute.dtype)
    if missing or model.config.num_labels != 1:
        wrong = f"it lacks {', '.join(missing)}" if missing else f"it has {model.config.num_labels} outputs, not one"
        raise ValueError(
            f"{source!r} is no trained reward model: {wrong}; train one with `tril-gym train reward-model`, or score a"
            " label of a classifier with the reward classifier"
        )
    return Classifier(model.to(compute.device), load_tokenizer(tokenizer))


def check_template(template: str) -> None:
    """Raise ValueError unless a template is a format of a completion, and of nothing but prompt and completion."""
    check_fields("template", template, required=("completion",), allowed=("prompt", "completion"), usual=TEMPLATE)


def _as_written(prompt: str, completion: str, reference: str) -> str:
    """Return a reference that begins as the completion does: policies write a space after most prompts."""
    is_apart = not completion or completion[0].isspace()
    return joiner_between(prompt, reference) + reference if is_apart else reference


def _report(folder: Path) -> dict[str, Any]:
    """Return the report that the training of a reward model wrote; empty for other models."""
    path = folder / REPORT
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; copy it again from where the model was trained") from error
