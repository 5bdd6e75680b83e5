"""A language model as a policy: it writes tokens, and says how likely written tokens were.

The distribution that is sampled is the distribution that is scored: one `Decoding` warps the logits in both. Plain
sampling (temperature 1, no top-k, no top-p) is the default.

B texts, P prompt tokens, T new tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

from tril_gym.agents.backbone import Decoder, backbone_of
from tril_gym.agents.decoding import EXCLUDED, Decoding, entropy, logprobs_of, sample
from tril_gym.agents.layout import TextLayout
from tril_gym.agents.trajectories import Infos, Texts
from tril_gym.quiet import without_progress_bars

# Nats. What is said of a token that top-k or top-p exclude, in place of −inf: a KL to a reference that excludes what
# the policy wrote would be infinite, and nothing could be learned from it.
EXCLUDED_LOGPROB = -100.0


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What a policy says of written tokens."""

    logprobs: Tensor  # (B, T) nats
    entropy: Tensor | None  # (B, T) nats, of the distribution each token was drawn from


class LMPolicy:
    """A causal or encoder-decoder language model of `transformers`, with its tokenizer.

    Args:
        model: a `PreTrainedModel` with a language-modelling head. Its dropout is switched off for good, so that
            sampling and scoring see one distribution.
        tokenizer: the tokenizer of the environment that the policy writes in, None where it shows none.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = disable_dropout(model), tokenizer
        self.backbone = backbone_of(model)
        self.decoding = Decoding()

    @classmethod
    def from_pretrained(cls, name: str | Path, *, with_tokenizer: bool = True, **model_settings: Any) -> LMPolicy:
        """Load a model and its tokenizer by name or from a folder.

        Args:
            name: a hub name or a folder.
            with_tokenizer: False for a model that was saved without one.
            model_settings: for the model's own `from_pretrained`.

        Raises:
            ValueError: nothing that `transformers` can load has this name.
        """
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        try:
            config = AutoConfig.from_pretrained(name)
            kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            with without_progress_bars():
                model = realigned(kind.from_pretrained(name, **model_settings))
            tokenizer = AutoTokenizer.from_pretrained(name) if with_tokenizer else None
        except (OSError, ValueError) as error:
            raise ValueError(
                f"no language model could be loaded as {str(name)!r}; give the folder of a saved model, a hub name"
                f" (network needed), or tiny / tiny-seq2seq ({str(error).partition(chr(10))[0]})"
            ) from error
        return cls(model, tokenizer)

    @classmethod
    def tiny(cls, envs: VectorEnv, *, kind: str = "causal", **settings: Any) -> LMPolicy:
        """A small transformer for this environment, warmed up on its references; see `tiny.tiny_policy`."""
        from tril_gym.agents.tiny import tiny_policy

        return tiny_policy(envs, kind=kind, **settings)

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
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def state_dict(self) -> dict[str, Tensor]:
        """The weights that may differ from those it was made from."""
        return self.model.state_dict()  # type: ignore[no-any-return]

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over the weights of `state_dict`."""
        self.model.load_state_dict(state)

    def active(self) -> AbstractContextManager[None]:
        """Within it the model computes as this policy. Also for backward passes, which may compute activations anew."""
        return nullcontext()

    def with_decoding(self, decoding: Decoding) -> LMPolicy:
        """The same model, sampled and scored under other settings."""
        twin = copy.copy(self)
        twin.decoding = decoding
        return twin

    def frozen_copy(self) -> LMPolicy:
        """A policy of its own with the same weights, which no training can change."""
        twin = copy.copy(self)
        twin.model = copy.deepcopy(self.model).requires_grad_(False)
        return twin

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

    def start(self, prompts: Tensor, completions: Tensor, infos: Infos, layout: TextLayout) -> LMWriter:
        """Take up texts where they stand; see `Actor`."""
        return LMWriter(self, Texts.of(prompts, completions).to(self.device), layout, layout.min_new_tokens)

    def score(self, texts: Texts, layout: TextLayout, *, with_entropy: bool = False) -> TokenScores:
        """Log-probabilities (and entropies) of tokens under the distribution that this policy samples.

        Differentiable; tensors on the model's device. Cells of padding hold numbers without meaning.
        """
        texts = texts.to(self.device)
        positions = torch.arange(texts.tokens.shape[1], device=self.device).expand_as(texts.tokens)
        logits = self.decoding.apply(
            self.backbone.logits(self.model, texts),
            positions,
            eos_token_ids=layout.eos_token_ids,
            min_new_tokens=layout.min_new_tokens,
        )
        logprobs = logprobs_of(logits, texts.tokens)
        logprobs = logprobs.masked_fill(logprobs == EXCLUDED, EXCLUDED_LOGPROB)
        return TokenScores(logprobs, entropy(logits) if with_entropy else None)

    def plain_logprobs(self, texts: Texts) -> Tensor:
        """(B, T) under the model's own softmax: no temperature, no minimum length. What imitation learns from."""
        texts = texts.to(self.device)
        return logprobs_of(self.backbone.logits(self.model, texts), texts.tokens)

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as `transformers` does; `AutoModel…from_pretrained(folder)` loads them."""
        with without_progress_bars():
            self.model.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)


class LMWriter:
    """Writes on B texts with one language model; see `Writer`."""

    def __init__(self, policy: LMPolicy, texts: Texts, layout: TextLayout, min_new_tokens: int) -> None:
        if not bool(texts.is_prompt.any(1).all()):
            row = int((~texts.is_prompt.any(1)).nonzero()[0])
            raise ValueError(f"text {row} of the batch has an empty prompt; a model needs at least one prompt token")
        self.policy, self.layout, self.min_new_tokens = policy, layout, min_new_tokens
        self.lengths = texts.lengths
        # `transformers` keeps no keys and values while a model trains with checkpoints.
        self._cache_needs_evaluation = checkpoints_gradients(policy.model)
        self._texts: Texts | None = texts
        self._decoder: Decoder | None = None
        self._pending: Tensor | None = None  # written, not yet read: a text that ends here needs no further pass

    @torch.no_grad()
    def next(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Write one token on every text."""
        with evaluating(self.policy.model) if self._cache_needs_evaluation else nullcontext():
            logits = self._read().logits()
        logits = self.policy.decoding.apply(
            logits,
            self.lengths,
            eos_token_ids=self.layout.eos_token_ids,
            min_new_tokens=self.min_new_tokens,
        )
        tokens = sample(logits, draws.to(logits.device))
        self.lengths = self.lengths + 1
        self._pending = tokens
        return tokens, logprobs_of(logits, tokens)

    def _read(self) -> Decoder:
        if self._decoder is None:
            assert self._texts is not None
            self._decoder = self.policy.backbone.decoder(self.policy.model, self._texts)
            self._texts = None
        elif self._pending is not None:
            self._decoder.append(self._pending)
        return self._decoder

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        rows = rows.to(self.lengths.device)
        self.lengths = self.lengths[rows]
        if self._texts is not None:
            self._texts = self._texts[rows]
        if self._pending is not None:
            self._pending = self._pending[rows]
        if self._decoder is not None:
            self._decoder.keep(rows)

    def close(self) -> None:
        """Let go of the cache."""
        self._decoder = self._texts = None


def checkpoints_gradients(model: nn.Module) -> bool:
    """Whether a model stores fewer activations for its backward pass, and computes them again."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Out of training mode for a while."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


def realigned(model: Any) -> Any:
    """Give every weight on the CPU memory of its own, in place.

    Weights that stand where a file was mapped to lie at any address, and kernels round differently there: a policy that
    was saved and loaded would not go on exactly like one that never stopped.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()
    return model


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
