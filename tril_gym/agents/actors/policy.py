"""A language model as a policy: it writes tokens, and says how likely written tokens were.

The distribution that is sampled is the distribution that is scored: one `Decoding` warps the logits in both. Plain
sampling (temperature 1, no top-k, no top-p) is the default.

B texts, P prompt tokens, T new tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tril_gym.agents.actors.lm_writer import LMWriter
from tril_gym.agents.collection.actor import Actor
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Infos
from tril_gym.functional.sampling import EXCLUDED, Decoding
from tril_gym.models.backbone import backbone_of
from tril_gym.models.compiled import CompiledStep
from tril_gym.models.kernels import compile_bodies, use_fast_kernels
from tril_gym.models.lm_head import Entropies, Head, Warp, find_head, score_states
from tril_gym.models.lora import Lora, is_peft_model
from tril_gym.models.pretrained import (
    BaseModelRef,
    align_storage,
    is_adapter,
    is_quantised,
    load_adapter,
    load_model,
    save_adapter,
)
from tril_gym.models.texts import Texts
from tril_gym.utils.quiet import without_progress_bars
from tril_gym.utils.tokenization import load_tokenizer

# Nats. What is said of a token that top-k or top-p exclude, in place of −inf: a KL to a reference that excludes what
# the policy wrote would be infinite, and nothing could be learned from it.
EXCLUDED_LOGPROB = -100.0


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What a policy says of written tokens."""

    logprobs: Tensor  # (B, T) nats
    entropy: Tensor | None  # (B, T) nats, of the distribution each token was drawn from


class LMPolicy(Actor):
    """A causal or encoder-decoder language model of `transformers`, with its tokenizer.

    Args:
        model: a `PreTrainedModel` with a language-modelling head, or a `PeftModel` with LoRA around one. Its dropout is
            switched off for good, so that sampling and scoring use one distribution; see also
            `kernels.use_fast_kernels`.
        tokenizer: the tokenizer of the environment that the policy writes in, None where it shows none.
    """

    model: Any  # of `transformers`; where there is LoRA, its layers carry the adapter
    lora: Lora | None  # its adapter: all that trains; None: the whole model does

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._set(Lora(align_storage(model)) if is_peft_model(model) else align_storage(model))
        self.tokenizer = tokenizer
        self.backbone = backbone_of(self.model)
        self.decoding = Decoding()
        self.origin: BaseModelRef | None = None  # where its base can be loaded from again

    def _set(self, model: Any) -> None:
        self.lora = model if isinstance(model, Lora) else None
        self._head: Head | Literal["unknown"] | None = "unknown"  # until it is first needed
        self.compiled: CompiledStep | None = None  # writes, where it was compiled
        self.model = use_fast_kernels(disable_dropout(model if self.lora is None else self.lora.network))

    def _with(self, model: Any) -> LMPolicy:
        """The same around another model, or around one with an adapter."""
        twin = copy.copy(self)
        twin._set(model)
        return twin

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        with_tokenizer: bool = True,
        load_in_4bit: bool = False,
        load_in_8bit: bool = False,
        **model_settings: Any,
    ) -> LMPolicy:
        """Load a model and its tokenizer by name or from a folder; an adapter's folder gives a policy with LoRA.

        Args:
            name: a hub name or a folder.
            with_tokenizer: False for a model that was saved without one.
            load_in_4bit: quantise the model (NF4), which then trains with LoRA only.
            load_in_8bit: the same in 8 bits.
            model_settings: for the model's own `from_pretrained`, such as another `quantization_config`.

        Raises:
            ValueError: nothing that `transformers` can load has this name, or the hardware cannot quantise.
            ImportError: quantising needs bitsandbytes.
        """
        bits = {"load_in_4bit": load_in_4bit, "load_in_8bit": load_in_8bit}
        settings = model_settings | {bit: True for bit, wanted in bits.items() if wanted}
        if is_adapter(name):
            lora, origin = load_adapter(Path(name), settings)
            tokenizer = load_tokenizer(_with_tokenizer(Path(name), origin)) if with_tokenizer else None
            policy = cls(lora.peft_model, tokenizer)
        else:
            model = load_model(name, **settings)
            policy = cls(model, load_tokenizer(name) if with_tokenizer else None)
            origin = BaseModelRef.of(model, name, settings)
        policy.origin = origin
        return policy

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def vocab_size(self) -> int:
        """The model's number of logits."""
        return self.model.get_output_embeddings().weight.shape[0]

    def parameters(self) -> list[nn.Parameter]:
        """What training moves."""
        parameters = self.model.parameters() if self.lora is None else self.lora.weights().values()
        return [parameter for parameter in parameters if parameter.requires_grad]

    def state_dict(self) -> dict[str, Tensor]:
        """The weights that may differ from those it was made from."""
        return self.model.state_dict() if self.lora is None else self.lora.state_dict()  # type: ignore[no-any-return]

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over the weights of `state_dict`."""
        (self.model if self.lora is None else self.lora).load_state_dict(state)

    @property
    def is_quantised(self) -> bool:
        """Whether the base's weights are whole numbers of few bits."""
        return is_quantised(self.model)

    def to(self, device: str | torch.device) -> LMPolicy:
        """Move the model, in place. Networks that share its base stay where they are: move it before they are made."""
        if self.device != torch.device(device):
            self.model.to(device)
        return self

    def with_lora(
        self,
        rank: int,
        *,
        alpha: float | None = None,
        target_modules: str | Collection[str] | None = None,
        seed: int = 0,
    ) -> LMPolicy:
        """A policy that trains a LoRA adapter on this one's model and leaves its weights as they are.

        Both policies share these weights, so this one must not be trained any more.

        Args:
            rank: columns of the adapter's matrices; 8 is usual.
            alpha: the adapter's product is multiplied by alpha / rank; by default 2 · rank.
            target_modules: names of layers to adapt, or "all-linear"; by default what peft knows to be usual.
            seed: the first matrix of each pair is drawn from it; the second starts at zero.

        Raises:
            ValueError: there are no such layers, the rank or alpha cannot be, or there is an adapter already.
        """
        if self.lora is not None:
            raise ValueError("the policy has LoRA already; full_copy() merges it into a model that can have another")
        return self._with(Lora.on(self.model, rank=rank, alpha=alpha, target_modules=target_modules, seed=seed))

    def with_decoding(self, decoding: Decoding) -> LMPolicy:
        """The same model, sampled and scored under other settings."""
        twin = copy.copy(self)
        twin.decoding = decoding
        return twin

    def frozen_copy(self) -> LMPolicy:
        """A policy of its own with the same weights, which no training can change; with LoRA, on the same base."""
        if self.lora is not None:
            return self._with(self.lora.copy().freeze())
        return self._with(copy.deepcopy(self.model).requires_grad_(False))

    def shares_base(self, other: LMPolicy) -> bool:
        """Whether both have one base model in memory."""
        one, two = (policy.model.get_input_embeddings().weight for policy in (self, other))
        return bool(one.data_ptr() == two.data_ptr())

    def adapter_copy(self) -> LMPolicy:
        """A policy of its own on the same base, which trains its own adapter; it starts with the same weights.

        Raises:
            ValueError: the policy has no LoRA.
        """
        if self.lora is None:
            raise ValueError(
                "another adapter on the same base needs a LoRA policy; use LMPolicy.with_lora or --lora-rank"
            )
        return self._with(self.lora.copy())

    def full_copy(self) -> LMPolicy:
        """A policy of its own with the same weights, all of which train; an adapter is merged into them.

        Raises:
            ValueError: the weights are quantised, and cannot be trained.
        """
        if self.is_quantised:
            raise ValueError("quantised weights cannot be trained; train an adapter on them, or load them in full")
        model = self.model if self.lora is None else self.lora.merged()
        return self._with(copy.deepcopy(model).requires_grad_(True))

    def check_trains(self) -> None:
        """Refuse a policy that training could not change.

        Raises:
            ValueError: quantised weights without an adapter, or everything is frozen.
        """
        if self.is_quantised and self.lora is None:
            raise ValueError("quantised weights cannot be trained; add an adapter with policy.with_lora or --lora-rank")
        if not self.parameters():
            frozen = "its weights are frozen" if self.lora is None else "its adapter is frozen (is_trainable=True?)"
            raise ValueError(f"nothing of the policy can be trained: {frozen}; let them require gradients")

    def check(self, layout: TextLayout) -> None:
        """Refuse an environment that this model cannot write in.

        Raises:
            ValueError: vocabularies of different size, or texts longer than the model's positions.
        """
        if self.vocab_size != layout.vocab_size:
            raise ValueError(
                f"the model has {self.vocab_size} logits, the environment {layout.vocab_size} actions; make the"
                f" environment with the model's own tokenizer, and vocab_size={self.vocab_size} if that is shorter"
            )
        self.backbone.check_room(self.model, layout.max_prompt_length, layout.max_new_tokens)

    def start(
        self, texts: Texts, infos: Infos, layout: TextLayout, *, value: Callable[[Tensor], Tensor] | None = None
    ) -> LMWriter:
        """Continue texts where they stop; see `Actor`, and `LMWriter` for `value`."""
        return LMWriter(self, texts.to(self.device), layout, layout.min_new_tokens, value)

    @property
    def can_pack(self) -> bool:
        """Whether texts are read in shared rows, so that those of any lengths may be learned from together."""
        return self.head is not None and self.backbone.can_pack(self.model)

    def compile(self) -> None:
        """Let torch compile what is computed when texts are read again, and of a decoder-only model what writes them.

        Each size is compiled when it is first met, which takes seconds to minutes.

        Raises:
            ValueError: the logits are more than a layer on the last hidden state, which is all that is compiled.
        """
        if self.head is None:
            raise ValueError(
                f"compile=True is for models whose logits are a layer on their last hidden state; those of"
                f" {type(self.model).__name__} are more, so leave it out"
            )
        compile_bodies(self.model)
        if not self.model.config.is_encoder_decoder:
            self.compiled = CompiledStep(self.model)

    def hidden(self, texts: Texts) -> Tensor:
        """(B, T + 1, D): the last hidden state before each token, and after the last column."""
        return self.backbone.hidden(self.model, texts.to(self.device))

    def score(
        self,
        texts: Texts,
        layout: TextLayout,
        *,
        entropies: Entropies = "none",
        hidden: Tensor | None = None,
    ) -> TokenScores:
        """Log-probabilities (and entropies) of tokens under the distribution that this policy samples.

        Differentiable; tensors on the model's device, 0 on padding.

        Args:
            texts: prompts and tokens.
            layout: of the environment.
            entropies: "none", as "numbers", or with a "gradient".
            hidden: (B, T + 1, D) what `hidden` says of the texts, where it is known.
        """

        def warp(logits: Tensor, rows: Tensor) -> Tensor:
            return self.decoding.apply(
                logits, positions[rows], eos_token_ids=layout.eos_token_ids, min_new_tokens=layout.min_new_tokens
            )

        texts = texts.to(self.device)
        positions = texts.is_token.nonzero()[:, 1]  # (N,) of each token in its text
        logprobs, found = self._score(texts, warp, entropies, hidden)
        logprobs = logprobs.masked_fill(logprobs == EXCLUDED, EXCLUDED_LOGPROB)
        return TokenScores(logprobs, None if entropies == "none" else found)

    def plain_logprobs(self, texts: Texts) -> Tensor:
        """(B, T) under the model's own softmax: no temperature, no minimum length. What imitation learns from."""
        return self._score(texts.to(self.device), lambda logits, rows: logits, "none", None)[0]

    def _score(self, texts: Texts, warp: Warp, entropies: Entropies, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies, (B, T) both; the head reads the states before real tokens only."""
        cells = texts.is_token.flatten().nonzero().squeeze(1)  # (N,)
        head: Callable[[Tensor], Tensor] | None = self.head
        if head is None:
            states, head = self.backbone.logits(self.model, texts), _as_it_is
        else:
            states = self.backbone.hidden(self.model, texts.without_last()) if hidden is None else hidden[:, :-1]
        known = states.flatten(0, 1)[cells], texts.tokens.flatten()[cells]
        scores = score_states(head, *known, warp, vocab_size=self.vocab_size, entropies=entropies)
        nothing = scores[0].new_zeros(texts.tokens.numel())
        logprobs, found = (nothing.index_copy(0, cells, part).view_as(texts.tokens) for part in scores)
        return logprobs, found

    @property
    def head(self) -> Head | None:
        """The model's last layer, where that is all there is between its last hidden state and its logits."""
        if self._head == "unknown":
            self._head = find_head(self.model, self.backbone)
        return self._head

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as `transformers` does; `AutoModel…from_pretrained(folder)` loads them.

        An adapter is merged into the weights; where these are quantised, so that merging would round, it is written as
        an adapter instead, which `transformers` loads as well, with peft.
        """
        if self.lora is not None and self.is_quantised:
            return self.save_adapter(folder)
        with without_progress_bars():
            (self.model if self.lora is None else self.lora.merged()).save_pretrained(folder)
        self._save_tokenizer(folder)

    def save_adapter(self, folder: Path) -> None:
        """Write adapter and tokenizer, and where the base is from; `LMPolicy.from_pretrained(folder)` goes on exactly.

        A base without a name is written beside the adapter.
        """
        assert self.lora is not None, "only with LoRA"
        save_adapter(self.lora, self.origin, folder)
        self._save_tokenizer(folder)

    def save_delta(self, folder: Path) -> None:
        """Write what a policy differs in from its base: nothing, or its adapter. For `load_delta`."""
        if self.lora is not None:
            self.lora.save(folder, base=None)

    def load_delta(self, folder: Path) -> LMPolicy:
        """A frozen policy on the base of this LoRA policy, with the adapter that `save_delta` wrote, if any."""
        assert self.lora is not None, "without LoRA no other policy shares the model"
        base = self.lora.base()
        return self._with(Lora.load(base, folder).freeze() if is_adapter(folder) else base)

    def _save_tokenizer(self, folder: Path) -> None:
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)


def _as_it_is(logits: Tensor) -> Tensor:
    return logits


def _with_tokenizer(folder: Path, origin: BaseModelRef | None) -> Path | str:
    """Where an adapter's tokenizer is: beside it, or with its base."""
    return folder if origin is None or (folder / "tokenizer_config.json").is_file() else origin.name


def disable_dropout(model: Any) -> Any:
    """Set every dropout of a model to zero, in place.

    By module rather than `eval()`: in evaluation mode `transformers` switches gradient checkpointing off as well.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if name.endswith(("dropout", "layerdrop")) and isinstance(value, float):
                setattr(module, name, 0.0)  # attention layers keep their rate as a plain number
    return model.train()
