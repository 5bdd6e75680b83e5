"""A policy: a language model and how it is sampled. It writes tokens, and returns log-probabilities of written ones.

The distribution that is sampled is the distribution that is scored: one `Decoding` warps the logits in both. Plain
sampling (temperature 1, no top-k, no top-p) is the default. Top-k and top-p decide what is drawn only.

B texts, P prompt tokens, T new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tril_gym.agents.actors.free_prompts import Chat, complete, is_chat
from tril_gym.agents.actors.lm_writer import LMWriter
from tril_gym.agents.actors.model_check import check_model
from tril_gym.agents.collection.actor import Actor
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Infos
from tril_gym.functional.sampling import EXCLUDED, Decoding
from tril_gym.models.architecture import eos_ids_of, is_model
from tril_gym.models.language_model import LanguageModel, TokenLogprobs
from tril_gym.models.lm_head import EntropyMode
from tril_gym.models.lora import Lora
from tril_gym.models.texts import Texts
from tril_gym.utils.config_fields import check_integer, describe_type
from tril_gym.utils.tokenization import check_model_size

PolicyLike = Any  # what `as_policy` takes: an `LMPolicy`, a model of `transformers`, the name or folder of one
TINY = ("tiny", "tiny-seq2seq")  # on the command line

# Nats. Log-probability of an EOS before the minimum length, which only another actor can write, instead of −inf: with
# that, gradients are NaN.
EXCLUDED_LOGPROB = -100.0


class LMPolicy(Actor):
    """A language model that writes as an actor.

    Args:
        model: a causal or encoder-decoder `PreTrainedModel` with a language-modelling head, or a `PeftModel` with LoRA
            around one. Its dropout is switched off for good.
        tokenizer: the tokenizer of the environment that the policy writes in; None if the environment has none.
    """

    language_model: LanguageModel
    decoding: Decoding

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.language_model, self.decoding = LanguageModel(model, tokenizer), Decoding()

    @classmethod
    def _of(cls, language_model: LanguageModel, decoding: Decoding) -> LMPolicy:
        policy = cls.__new__(cls)
        policy.language_model, policy.decoding = language_model, decoding
        return policy

    @classmethod
    def from_pretrained(cls, name: str | Path, **settings: Any) -> LMPolicy:
        """Load a policy by name or from a folder; settings and errors as of `LanguageModel.from_pretrained`."""
        return cls._of(LanguageModel.from_pretrained(name, **settings), Decoding())

    def with_language_model(self, language_model: LanguageModel) -> LMPolicy:
        """Return a policy with another model and the same decoding."""
        return self._of(language_model, self.decoding)

    def with_decoding(self, decoding: Decoding) -> LMPolicy:
        """Return a policy with the same model and another decoding."""
        return self._of(self.language_model, decoding)

    def with_lora(self, rank: int, **settings: Any) -> LMPolicy:
        """Return a policy that trains a LoRA adapter on this one's model; see `LanguageModel.with_lora`."""
        return self.with_language_model(self.language_model.with_lora(rank, **settings))

    def frozen_copy(self) -> LMPolicy:
        """Return a copy that no training changes; with LoRA, on the same base."""
        return self.with_language_model(self.language_model.frozen_copy())

    def shares_base(self, other: LMPolicy) -> bool:
        """Return whether both policies use the same base weights in memory."""
        return self.language_model.shares_base(other.language_model)

    @property
    def model(self) -> Any:
        """The model of `transformers`; with LoRA, its layers carry the adapter."""
        return self.language_model.model

    @property
    def lora(self) -> Lora | None:
        """The adapter, which alone is trained; None: the whole model is."""
        return self.language_model.lora

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, or None."""
        return self.language_model.tokenizer

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.language_model.device

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self.language_model.vocab_size

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The ids at which the model's texts end by its generation config, as far as it has logits for them."""
        return tuple(token for token in eos_ids_of(self.model) if 0 <= token < self.vocab_size)

    def description(self) -> str:
        """Return the type of the model, its number of parameters, data type and device, and the decoding."""
        adapter = "" if self.lora is None else " with LoRA"
        dtype = str(self.model.dtype).removeprefix("torch.")
        decoding = "" if self.decoding == Decoding() else f", {self.decoding}"
        count = f"{self.model.num_parameters():,} parameters"
        return f"{type(self.model).__name__}{adapter}, {count}, {dtype} on {self.device}{decoding}"

    def __repr__(self) -> str:
        trained = sum(parameter.numel() for parameter in self.parameters()) / self.model.num_parameters()
        return f"LMPolicy({self.description()}, {'all' if trained == 1 else f'{trained:.2%}'} trained)"

    def parameters(self) -> list[nn.Parameter]:
        """Return what training changes."""
        return self.language_model.parameters()

    def to(self, device: str | torch.device) -> LMPolicy:
        """Move the model in place."""
        self.language_model.to(device)
        return self

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as `transformers` does, an adapter merged; see `LanguageModel.save`."""
        self.language_model.save(folder)

    def check(self, layout: TextLayout) -> None:
        """Raise if the model cannot write in this environment.

        Raises:
            ValueError: vocabularies of different size, or texts longer than the model's positions.
        """
        if layout.tokenizer is not None:
            check_model_size(layout.tokenizer, self.vocab_size, "logits")
        if self.vocab_size != layout.vocab_size:
            raise ValueError(
                f"the model has {self.vocab_size} logits, the environment {layout.vocab_size} actions; make the"
                f" environment with the model's own tokenizer{self._tokenizer_keyword()}, and"
                f" vocab_size={self.vocab_size} if that is shorter"
            )
        self.language_model.backbone.check_positions(layout.max_prompt_length, layout.max_new_tokens)

    def _tokenizer_keyword(self) -> str:
        """Return the keyword of an environment for the model's tokenizer, where it has a name or a folder."""
        name = "" if self.tokenizer is None else self.tokenizer.name_or_path
        return f", tokenizer={name!r}" if name else ""

    def check_ends(self, layout: TextLayout) -> None:
        """Raise if the environment ends texts, or prompts, otherwise than the model that trains in it.

        Raises:
            ValueError: the model ends its texts at further ids, or it is decoder-only and prompts end in EOS.
        """
        known = list(self.eos_token_ids)
        if not {*known}.isdisjoint(layout.eos_token_ids) and not {*known} <= {*layout.eos_token_ids}:
            both = [*layout.eos_token_ids, *sorted({*known} - {*layout.eos_token_ids})]
            raise ValueError(
                f"the model's texts end at any of the ids {known}, those of the environment at"
                f" {list(layout.eos_token_ids)}; make the environment with eos_token_ids={both}"
            )
        if layout.prompt_eos and not self.model.config.is_encoder_decoder:
            raise ValueError(
                "prompts end in EOS, which the tokenizer puts there, and a decoder-only model continues nothing after"
                " it; make the environment with prompt_eos=False"
            )

    def end_texts_at(self, token_ids: Sequence[int]) -> None:
        """Let `generate`, and the model wherever it is loaded, end texts at these ids, where training ends them."""
        if {*self.eos_token_ids} != {*token_ids}:
            self.model.generation_config.eos_token_id = list(token_ids)

    def check_readings(self, layout: TextLayout, *, values: bool = False) -> None:
        """Find how the model must be read in this environment, once; see `model_check.check_model`."""
        check_model(self.language_model, layout, values=values)

    def generate(
        self,
        prompts: str | Chat | Sequence[str | Chat],
        *,
        max_new_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        greedy: bool = False,
        seed: int = 0,
        check_model: bool = True,
    ) -> Any:
        """Return a completion of a prompt, or a list of them; see `complete` in `free_prompts.py` for the rest.

        Args:
            prompts: a text, a chat (a list of messages), or a list of texts or chats.
            max_new_tokens: None: 64, or as many as the model has positions for.
            stop: strings at which a completion ends; it does not have them.
            greedy: write the most probable tokens; else sample as in training.
            seed: of sampling.
            check_model: first find how the model must be read, once; see `check_readings`.
        """
        policy = self.with_decoding(Decoding(greedy=True)) if greedy else self
        if max_new_tokens is not None:
            check_integer("max_new_tokens", max_new_tokens, 1)
        check_integer("seed", seed, 0)
        is_one = isinstance(prompts, str) or is_chat(prompts)
        several: Any = [prompts] if is_one else prompts
        settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop": stop, "check_model": check_model}
        found = complete(policy, several, seed=seed, **settings)
        return found[0] if is_one else found

    def gathered(self) -> AbstractContextManager[None]:
        """Hold all weights of a sharded model while texts are written; see `Actor`."""
        return self.language_model.gathered()

    def start(
        self, texts: Texts, infos: Infos, layout: TextLayout, *, value: Callable[[Tensor], Tensor] | None = None
    ) -> LMWriter:
        """Continue texts where they stop; see `Actor`, and `LMWriter` for `value`."""
        return LMWriter(self.language_model, self.decoding, texts.to(self.device), layout, value=value)

    def token_logprobs(
        self,
        texts: Texts,
        layout: TextLayout,
        *,
        entropies: EntropyMode = "none",
        hidden: Tensor | None = None,
    ) -> TokenLogprobs:
        """Return log-probabilities (and entropies) of tokens under the distribution that this policy samples.

        Top-k and top-p are left out: they cut what is drawn, and log-probabilities are those of the full softmax.
        Differentiable; tensors on the model's device, 0 on padding.

        Args:
            texts: prompts and tokens.
            layout: of the environment.
            entropies: "none", "detached", or with a "gradient".
            hidden: (B, T + 1, D) what `LanguageModel.hidden` returns for the texts, if known.
        """
        scores = self.language_model.token_logprobs(texts, self._warp(layout), entropies=entropies, hidden=hidden)
        return replace(scores, logprobs=scores.logprobs.masked_fill(scores.logprobs == EXCLUDED, EXCLUDED_LOGPROB))

    def token_logits(self, texts: Texts, layout: TextLayout, hidden: Tensor | None = None) -> Tensor:
        """Return (B, T, V) logits of the distributions that `token_logprobs` reads tokens of; arguments as there."""
        logits = self.language_model.token_logits(texts, hidden)
        positions = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2])
        return self._warp(layout)(logits, positions)

    def _warp(self, layout: TextLayout) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the function from the model's logits and their positions to the logits that are sampled."""
        return partial(
            self.decoding.scored.apply, eos_token_ids=layout.eos_token_ids, min_new_tokens=layout.min_new_tokens
        )

    def plain_logprobs(self, texts: Texts) -> Tensor:
        """Return (B, T) under the model's own softmax, without temperature or minimum length, as imitation learns."""
        return self.language_model.token_logprobs(texts).logprobs


def as_policy(found: Any, tokenizer: Any) -> LMPolicy:
    """Return a policy, or make one of a model of `transformers` or of the name or folder of one.

    Args:
        found: an `LMPolicy`, a `PreTrainedModel`, a `PeftModel`, or a name or folder for `LMPolicy.from_pretrained`.
        tokenizer: the environment's, which a model that is given without its own is taken to have.

    Raises:
        TypeError: something else.
        ValueError: it can write no texts, or there is no model of this name.
    """
    if isinstance(found, LMPolicy):
        return found
    if isinstance(found, str) and found in TINY:
        raise ValueError(f"{found!r} models are made for an environment: tiny_policy(envs), tiny_guide(envs)")
    if isinstance(found, str | Path):
        return LMPolicy.from_pretrained(found)
    if is_model(found):
        return LMPolicy(found, tokenizer)
    raise TypeError(
        "a policy is an LMPolicy, a model of transformers, or the name or folder of one, got"
        f" {describe_type(found)}; write LMPolicy.from_pretrained(name) or tiny_policy(envs)"
    )
