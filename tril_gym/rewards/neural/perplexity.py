"""Perplexity under a language model: the exponential of the mean cost of a token, 1 if every token was certain.

    PPL(y | x) = exp( 1/T Σ_t −log p(y_t | x, y_<t) )

The perplexity of a completion is a reward; lower is better, so give it a negative weight. The perplexity of the
references, given their prompts, measures the language model: how well it predicts human-written texts. It depends on
the tokenizer, so only models with the same tokenizer can be compared.

B texts, T tokens of one of them, N references of all texts.
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

import numpy as np

from tril_gym.rewards.base import Extras, PooledScore, ReferenceLists, Score, Scores, Strings, check_batch
from tril_gym.rewards.neural.language_model import LanguageModel, load_language_model
from tril_gym.rewards.neural.pretrained import check_run_settings, resolve_model

MODEL_KIND = "causal or encoder-decoder language model"
BATCH_SIZE = 8  # the logits of 1024 tokens and 50,000 words take 0.2 GB per text


class OutputPerplexity(Score):
    """Perplexity of each completion under a language model, 1 or more without bound; lower is likelier.

    As a reward it needs a negative weight, such as output_perplexity:-1, and preferably `log=True`: the mean cost of a
    token in nats, 0 or more, grows much more slowly. Only tokens of the completion count, without an EOS. An
    encoder-decoder model reads the prompt in its encoder. A causal model reads prompt, joiner and completion, tokenised
    separately, after BOS if its tokenizer adds one; a completion without a prompt comes after BOS, or after EOS if the
    model has no BOS. An empty completion is read as the one token EOS. Texts longer than `max_length` are read in
    windows that move by half their length. A text's score is the same in every batch up to a relative 1e-5.
    """

    name = "output_perplexity"
    slow = True

    def __init__(
        self,
        *,
        model: str | Path | None = None,
        with_prompt: bool = True,
        log: bool = False,
        joiner: str = " ",
        max_length: int | None = None,
        batch_size: int = BATCH_SIZE,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        """Choose the language model and how to read it.

        Args:
            model: name or folder of a causal or encoder-decoder language model, or the folder of an adapter of peft.
            with_prompt: condition the completion on its prompt.
            log: return the mean cost of a token in nats, the logarithm of the perplexity.
            joiner: put between a prompt and a completion, unless white space is there; "" for chat templates that have
                none before an answer.
            max_length: tokens read at once; None reads what the model can, at most 1024.
            batch_size: texts per forward pass.
            device: torch device; None takes the GPU if there is one.
            dtype: "float32", "bfloat16" or "float16".
        """
        check_run_settings(batch_size=batch_size, dtype=dtype)
        self.model = resolve_model(self.name, model, kind=MODEL_KIND, allow_adapter=True)
        self.with_prompt, self.log, self.joiner = with_prompt, log, joiner
        self.max_length, self.batch_size, self.device, self.dtype = max_length, batch_size, device, dtype

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the perplexity of each completion, or its logarithm, (B,)."""
        num_texts = check_batch(prompts, completions, references, extras)
        nats, tokens = self.language_model.cost(
            prompts if self.with_prompt else [""] * num_texts,
            completions,
            joiner=self.joiner,
            max_length=self.language_model.length(self.max_length),
            batch_size=self.batch_size,
        ).T
        return nats / tokens if self.log else np.exp(nats / tokens)

    @cached_property
    def language_model(self) -> LanguageModel:
        """The model, loaded when first needed."""
        return load_language_model(self.model, device=self.device, dtype=self.dtype)


class Perplexity(PooledScore):
    """Perplexity of the references, given their prompts, under a language model: 1 or more, lower is better.

    Over all tokens of all references together; the completions are not read. Each reference is read as
    `OutputPerplexity` reads a completion, an empty one as the token EOS. Texts without references are left out.

    Raises:
        ValueError: no text has a reference.
    """

    name = "perplexity"

    def __init__(
        self,
        *,
        model: str | Path | None = None,
        with_prompt: bool = True,
        joiner: str = " ",
        max_length: int | None = None,
        batch_size: int = BATCH_SIZE,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        """Choose the language model and how to read it.

        Args:
            model: name or folder of a causal or encoder-decoder language model, or the folder of an adapter of peft.
            with_prompt: condition the references on their prompts.
            joiner: put between a prompt and a reference, unless white space is there; "" for chat templates that have
                none before an answer.
            max_length: tokens read at once; None reads what the model can, at most 1024.
            batch_size: references per forward pass.
            device: torch device; None takes the GPU if there is one.
            dtype: "float32", "bfloat16" or "float16".
        """
        check_run_settings(batch_size=batch_size, dtype=dtype)
        self.model = resolve_model(self.name, model, kind=MODEL_KIND, allow_adapter=True)
        self.with_prompt, self.joiner, self.max_length = with_prompt, joiner, max_length
        self.batch_size, self.device, self.dtype = batch_size, device, dtype

    def statistics(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the cost of each text's references in nats, and their tokens, (B, 2)."""
        check_batch(prompts, completions, references, extras)
        owners = [row for row, targets in enumerate(references) for _ in targets]  # (N,)
        costs = self.language_model.cost(
            [prompts[row] if self.with_prompt else "" for row in owners],
            [target for targets in references for target in targets],
            joiner=self.joiner,
            max_length=self.language_model.length(self.max_length),
            batch_size=self.batch_size,
        )
        sums = np.zeros((len(references), 2))
        np.add.at(sums, owners, costs)
        return sums

    def from_sums(self, sums: Scores) -> float:
        """Return the perplexity that belongs to sums of costs and tokens, (2,)."""
        nats, tokens = sums
        if tokens == 0:
            raise ValueError("perplexity is computed on the references, and no text has any; use data with references")
        return math.exp(nats / tokens)

    @cached_property
    def language_model(self) -> LanguageModel:
        """The model, loaded when first needed."""
        return load_language_model(self.model, device=self.device, dtype=self.dtype)
