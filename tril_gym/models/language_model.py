"""A causal or encoder-decoder language model of `transformers` with its tokenizer: load, adapt, copy, score, save.

B texts, P prompt tokens, T new tokens, V vocabulary, D hidden.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from tril_gym.functional.sampling import at_least_float32
from tril_gym.models.architecture import check_is_language_model
from tril_gym.models.backbone import backbone_of
from tril_gym.models.decoders import Decoder, ReadingMode
from tril_gym.models.kernels import use_fast_kernels
from tril_gym.models.lm_head import EntropyMode, Head, Warp, find_head, score_states, smallest_text
from tril_gym.models.lora import Lora, is_peft_model
from tril_gym.models.noise import disable_dropout
from tril_gym.models.pretrained import (
    BaseModelRef,
    align_storage,
    is_adapter,
    is_quantised,
    load_adapter,
    load_model,
    model_folder,
    save_adapter,
    source_settings,
    tokenizer_source,
)
from tril_gym.models.sharded_writing import BlockByBlock
from tril_gym.models.sharding import is_sharded_model, load_whole_state, shard, whole, whole_copy, whole_state
from tril_gym.models.texts import Texts
from tril_gym.utils.quiet import without_progress_bars
from tril_gym.utils.ranks import Ranks
from tril_gym.utils.tokenization import load_tokenizer


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities of written tokens, and the entropy of the distribution that each was drawn from."""

    logprobs: Tensor  # (B, T) nats, 0 on padding
    entropy: Tensor | None  # (B, T) nats, 0 on padding; None if not computed


class LanguageModel:
    """A language model, with or without LoRA.

    Dropout is switched off for good, so that sampling and scoring use one distribution; see also
    `kernels.use_fast_kernels`.

    Args:
        model: a `PreTrainedModel` with a language-modelling head, a `PeftModel` with LoRA around one, or a `Lora`.
        tokenizer: its tokenizer, or None.
        base_ref: where the weights (with LoRA: the base's) can be loaded from again, if known.
        mode: how the model must be read, where it is not as most are.
    """

    model: Any  # of `transformers`; with LoRA, its layers carry the adapter
    lora: Lora | None  # the adapter, which alone is trained; None: the whole model is

    def __init__(
        self, model: Any, tokenizer: Any, base_ref: BaseModelRef | None = None, mode: ReadingMode | None = None
    ) -> None:
        if is_peft_model(model):
            model = Lora(model)
        self.lora = model if isinstance(model, Lora) else None
        network = model if self.lora is None else self.lora.network
        check_is_language_model(network)
        self.model = disable_dropout(use_fast_kernels(align_storage(network)))
        self.tokenizer, self.base_ref = tokenizer, base_ref
        self.backbone = backbone_of(self.model, mode)
        self.dtype_is_chosen = True  # whether low precision was asked for, or is only how the weights were saved
        self._block_by_block: BlockByBlock | None = None  # writes, where it was sharded so
        self.checked: set[tuple[int, ...]] = set()  # what `agents.actors.model_check` has found right

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        with_tokenizer: bool = True,
        load_in_4bit: bool = False,
        load_in_8bit: bool = False,
        **model_settings: Any,
    ) -> Self:
        """Load a model and its tokenizer by name or from a folder; an adapter's folder gives a model with LoRA.

        Args:
            name: a hub name, the folder of a model, or that of a run or an agent, of which the policy is loaded.
            with_tokenizer: False for a model that was saved without one.
            load_in_4bit: quantise the model (NF4), which then trains with LoRA only.
            load_in_8bit: the same in 8 bits.
            model_settings: for the model's own `from_pretrained`, such as `dtype`, `revision`, `attn_implementation`,
                `device_map`, `trust_remote_code`, or another `quantization_config`. Without a `dtype` the weights are
                loaded as they were saved, and converted to float32 where all of them are trained.

        Raises:
            ValueError: `transformers` finds no model of this name, or the hardware cannot quantise.
            ImportError: quantising needs bitsandbytes.
        """
        bits = {"load_in_4bit": load_in_4bit, "load_in_8bit": load_in_8bit}
        settings = model_settings | {bit: True for bit, wanted in bits.items() if wanted}
        given, name = name, model_folder(name)
        if name != given and not (Path(name) / "tokenizer_config.json").is_file():
            with_tokenizer = False  # of an environment without one
        if is_adapter(name):
            lora, base_ref = load_adapter(Path(name), settings)
            settings = (base_ref.settings if base_ref is not None else {}) | settings
            source = tokenizer_source(name, base_ref)
            of_source = source_settings(settings) if source != name else {}
            loaded = cls(lora, load_tokenizer(source, **of_source) if with_tokenizer else None, base_ref)
        else:
            model = load_model(name, **settings)
            base_ref = BaseModelRef.of(model, name, settings)
            tokenizer = load_tokenizer(name, **source_settings(settings)) if with_tokenizer else None
            loaded = cls(model, tokenizer, base_ref)
        loaded.dtype_is_chosen = "dtype" in settings
        return loaded

    def _derive(self, model: Any) -> LanguageModel:
        """Return another model (or `Lora`) with the same tokenizer and base reference."""
        derived = LanguageModel(model, self.tokenizer, self.base_ref, self.backbone.mode)
        derived.dtype_is_chosen, derived.checked = self.dtype_is_chosen, set(self.checked)
        return derived

    def read_as(self, mode: ReadingMode) -> None:
        """Set how texts are given to the model; see `ReadingMode`."""
        if mode != self.backbone.mode:
            self.backbone = backbone_of(self.model, mode)
            for name in ("head", "width"):  # found again when they are needed
                vars(self).pop(name, None)

    @property
    def is_low_precision(self) -> bool:
        """Whether rounding alone makes two forward passes over a text differ noticeably."""
        return self.is_quantised or next(self.model.parameters()).dtype in (torch.float16, torch.bfloat16)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.parameters()).device

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self.model.get_output_embeddings().weight.shape[0]

    @property
    def is_quantised(self) -> bool:
        """Whether the base's weights are integers of few bits."""
        return is_quantised(self.model)

    @cached_property
    def head(self) -> Head | None:
        """The last layer, if that is all there is between the last hidden state and the logits; else None."""
        return find_head(self.backbone)

    @cached_property
    def width(self) -> int:
        """Size of the last hidden states, D: in OPT-350m that of the embeddings, half of `config.hidden_size`."""
        with torch.no_grad():
            return self.backbone.hidden(smallest_text(self.model)).shape[-1]

    @property
    def can_pack(self) -> bool:
        """Whether `hidden` reads several texts in one row, so that texts of any lengths need little padding."""
        return self.head is not None and self.backbone.can_pack

    def parameters(self) -> list[nn.Parameter]:
        """Return what training changes."""
        parameters = self.model.parameters() if self.lora is None else self.lora.weights().values()
        return [parameter for parameter in parameters if parameter.requires_grad]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights that training may change: all, or those of the adapter."""
        if self.lora is not None:
            return self.lora.state_dict()
        state: dict[str, Tensor] = self.model.state_dict()
        return whole_state(state) if self.is_sharded else state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the weights of `state_dict`."""
        if self.lora is None and self.is_sharded:
            load_whole_state(self.model, state)
        else:
            (self.model if self.lora is None else self.lora).load_state_dict(state)

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of the weights."""
        return is_sharded_model(self.model)

    def shard(self, on: LanguageModel | None = None, *, block_by_block: Ranks | None = None) -> None:
        """Let each process hold a part of the weights, in place; optimizers and copies are made anew afterwards.

        An adapter stays whole in each process.

        Args:
            on: a sharded model; one with LoRA on the same base shares its parts.
            block_by_block: the processes, if they write without ever holding all weights; see `gathered`.

        Raises:
            ValueError: it is quantised.
        """
        if self.is_quantised:
            raise ValueError(
                "quantised models are not sharded: they are small enough to be replicated; leave --shard-models out,"
                " or load the weights in full"
            )
        _ = self.head, self.width, self.can_pack  # found by probes, which do not run as passes of a sharded model
        if self.lora is None:
            shard(self.model)
        else:
            self.lora.shard(on=None if on is None else on.lora)
        if block_by_block is not None:
            self._block_by_block = BlockByBlock(self.model, block_by_block)

    def gathered(self) -> AbstractContextManager[None]:
        """Gather the weights of a sharded model while the block writes: all at once, or one block of it at a time."""
        if self._block_by_block is not None:
            return self._block_by_block.writing()
        return whole(self.model) if self.is_sharded else nullcontext()

    def whole_copy(self) -> LanguageModel:
        """Return a copy of a sharded model that is not, and of another one itself. All processes call it."""
        return self._derive(self._copied()) if self.is_sharded else self

    def _copied(self) -> Any:
        """Return a copy of the network, or of its `Lora` on the same base; that of a sharded one is whole."""
        if self.lora is not None:
            return self.lora.whole_copy() if self.is_sharded else self.lora.copy()
        return whole_copy(self.model) if self.is_sharded else copy.deepcopy(self.model)

    def _in_pass(self, work: Callable[[], Any]) -> Any:
        """Return what `work` computes with the model, which gathers its weights meanwhile if it is sharded."""
        return self.model.run_pass(work) if self.is_sharded else work()

    def check_trainable(self) -> None:
        """Raise if training could not change the model.

        Raises:
            ValueError: quantised weights without an adapter, everything is frozen, or a Reformer.
        """
        if self.model.config.model_type == "reformer":  # its backward pass is for training mode only, which has dropout
            raise ValueError("reformer models train only in training mode, with noise; use one as a guide instead")
        if self.is_quantised and self.lora is None:
            raise ValueError("quantised weights cannot be trained; add an adapter with policy.with_lora or --lora-rank")
        if not self.parameters():
            frozen = "its weights are frozen" if self.lora is None else "its adapter is frozen (is_trainable=True?)"
            raise ValueError(f"the policy has no trainable parameters: {frozen}; let them require gradients")

    def prepare_training(self) -> None:
        """Convert weights that are all trained to float32, in place; those whose dtype was chosen stay, with a warning.

        In half precision most steps of AdamW are lost: at a learning rate of 1e-5 a step is less than half the distance
        to the next bfloat16 of every weight above 0.004.
        """
        if self.lora is not None or self.is_quantised or not self.is_low_precision:
            return
        if not self.dtype_is_chosen:
            self.model.float()
            return
        warnings.warn(
            f"all weights of {type(self.model).__name__} are trained in {str(self.model.dtype).removeprefix('torch.')},"
            " in which small steps are rounded away; load it with dtype=torch.float32 (--dtype float32), or train an"
            " adapter (with_lora, --lora-rank)",
            stacklevel=3,
        )

    def to(self, device: str | torch.device) -> Self:
        """Move the model in place. Networks that share its base are not moved: move it before they are made."""
        if self.device != torch.device(device):
            self.model.to(device)
        return self

    def compile(self) -> None:
        """Compile the passes that score texts, and in a decoder-only model also those that write them.

        Each size is compiled at its first use, which takes seconds to minutes.

        Raises:
            ValueError: the logits are more than a layer on the last hidden state, and only that is compiled.
        """
        if self.head is None:
            raise ValueError(
                "compile=True needs a model whose logits are one layer on the last hidden state;"
                f" {type(self.model).__name__} computes more, so leave it out"
            )
        self.backbone.compile()

    def with_lora(
        self,
        rank: int,
        *,
        alpha: float | None = None,
        target_modules: str | Collection[str] | None = None,
        seed: int = 0,
    ) -> LanguageModel:
        """Return a model that trains a LoRA adapter on this one's weights, which stay as they are.

        Both share these weights, so this one must not be trained any more.

        Args:
            rank: columns of the adapter's matrices; 8 is usual.
            alpha: the adapter's product is multiplied by alpha / rank; by default 2 · rank.
            target_modules: names of layers to adapt, or "all-linear"; by default peft's choice for the architecture.
            seed: the first matrix of each pair is drawn from it; the second starts at zero.

        Raises:
            ValueError: there are no such layers, rank or alpha is out of range, or there is an adapter already.
        """
        if self.lora is not None:
            raise ValueError("the policy has LoRA already; full_copy() merges it into a model that can have another")
        return self._derive(Lora.on(self.model, rank=rank, alpha=alpha, target_modules=target_modules, seed=seed))

    def frozen_copy(self) -> LanguageModel:
        """Return a copy that no training changes; with LoRA, on the same base.

        That of a sharded model is whole in each process. All of them call it.
        """
        twin = self._copied()
        return self._derive(twin.requires_grad_(False) if self.lora is None else twin.freeze())

    def adapter_copy(self) -> LanguageModel:
        """Return a copy on the same base with an adapter of its own, which starts with the same weights and trains.

        Raises:
            ValueError: the model has no LoRA.
        """
        if self.lora is None:
            raise ValueError(
                "another adapter on the same base needs a LoRA policy; use LMPolicy.with_lora or --lora-rank"
            )
        lora = self.lora.copy()
        twin = self._derive(lora)
        if self.is_sharded:
            lora.shard(on=self.lora)
            if self._block_by_block is not None:
                twin._block_by_block = BlockByBlock(twin.model, self._block_by_block.ranks)
            with twin.gathered():
                _ = twin.head, twin.width, twin.can_pack
        return twin

    def full_copy(self) -> LanguageModel:
        """Return a copy of which all weights train; an adapter is merged into them.

        Raises:
            ValueError: the weights are quantised, and cannot be trained.
        """
        if self.is_quantised:
            raise ValueError("quantised weights cannot be trained; train an adapter on them, or load them in full")
        twin = self._copied()
        model = twin if self.lora is None else copy.deepcopy(twin.merged())  # shares no weights with the base
        return self._derive(model.requires_grad_(True))

    def shares_base(self, other: LanguageModel) -> bool:
        """Return whether both use the same base weights in memory."""
        one, two = (model.model.get_input_embeddings().weight for model in (self, other))
        if self.is_sharded or other.is_sharded:
            return one is two
        return bool(one.data_ptr() == two.data_ptr())

    def decoder(self, texts: Texts, max_length: int) -> Decoder:
        """Return a decoder that has read the texts and can continue them.

        Args:
            texts: where they stop, on the model's device.
            max_length: tokens of prompt and completion that any text of the environment may reach.
        """
        return self.backbone.decoder(texts, self.head, max_length)

    def hidden(self, texts: Texts) -> Tensor:
        """Return the last hidden state before each token and after the last column: (B, T + 1, D)."""
        texts = texts.to(self.device)
        return self._in_pass(lambda: self.backbone.hidden(texts))

    def token_logits(self, texts: Texts, hidden: Tensor | None = None) -> Tensor:
        """Return the logits before each token, (B, T, V), with gradient, on the model's device: all of them at once.

        Args:
            texts: prompts and tokens.
            hidden: (B, T + 1, D) what `hidden` returns for the texts, if known.
        """
        texts = texts.to(self.device)
        return at_least_float32(self._in_pass(lambda: self._logits(texts, hidden)))

    def _logits(self, texts: Texts, hidden: Tensor | None) -> Tensor:
        if self.head is None:
            return self.backbone.logits(texts)
        return self.head(self.backbone.hidden(texts.without_last()) if hidden is None else hidden[:, :-1])

    def token_logprobs(
        self,
        texts: Texts,
        warp: Warp | None = None,
        *,
        entropies: EntropyMode = "none",
        hidden: Tensor | None = None,
    ) -> TokenLogprobs:
        """Return log-probabilities (and entropies) of the tokens of texts, with gradient, on the model's device.

        Args:
            texts: prompts and tokens.
            warp: from the model's logits to those of the distribution in question; by default the model's own.
            entropies: whether they are computed, and with or without gradient.
            hidden: (B, T + 1, D) what `hidden` returns for the texts, if known.
        """
        texts = texts.to(self.device)
        logprobs, entropy = self._in_pass(lambda: self._scores(texts, warp, entropies, hidden))
        return TokenLogprobs(logprobs, None if entropies == "none" else entropy)

    def _scores(
        self, texts: Texts, warp: Warp | None, entropies: EntropyMode, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies, (B, T) each; see `token_logprobs`."""
        rows, positions = texts.is_token.nonzero(as_tuple=True)  # (N,) of each real token: the head reads no others
        cells = rows * texts.tokens.shape[1] + positions
        head: Callable[[Tensor], Tensor] | None = self.head
        if head is None:
            states, head = self.backbone.logits(texts), nn.Identity()
        else:
            states = self.backbone.hidden(texts.without_last()) if hidden is None else hidden[:, :-1]
        scores = score_states(
            head,
            states.flatten(0, 1)[cells],
            texts.tokens.flatten()[cells],
            positions,
            warp,
            vocab_size=self.vocab_size,
            entropies=entropies,
        )
        zeros = scores[0].new_zeros(texts.tokens.numel())
        logprobs, entropy = (zeros.index_copy(0, cells, found).view(texts.tokens.shape) for found in scores)
        return logprobs, entropy

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as `transformers` does; `AutoModel….from_pretrained(folder)` loads them.

        An adapter is merged into the weights. Merging into quantised weights would round, so there the adapter is
        written instead, which `transformers` loads as well, with peft.
        """
        if self.lora is not None and self.is_quantised:
            return self.save_adapter(folder)
        with without_progress_bars():
            (self.model if self.lora is None else self.lora.merged()).save_pretrained(folder)
        self._save_tokenizer(folder)

    def save_adapter(self, folder: Path) -> None:
        """Write adapter, tokenizer and the reference to the base; `from_pretrained(folder)` restores them exactly.

        A base without a name is written beside the adapter.
        """
        assert self.lora is not None, "only with LoRA"
        save_adapter(self.lora, self.base_ref, folder)
        self._save_tokenizer(folder)

    def save_delta(self, folder: Path) -> None:
        """Write the difference from the base for `load_delta`: the adapter, or nothing."""
        if self.lora is not None:
            self.lora.save(folder, base=None)

    def load_delta(self, folder: Path) -> LanguageModel:
        """Return a frozen model on the base of this one, with the adapter that `save_delta` wrote, if any."""
        assert self.lora is not None, "without LoRA no other policy shares the model"
        base = self.lora.base()
        return self._derive(Lora.load(base, folder).freeze() if is_adapter(folder) else base)

    def _save_tokenizer(self, folder: Path) -> None:
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
