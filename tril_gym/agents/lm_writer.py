"""A language model writes: one token after another on a batch of texts, with the model's cache.

B texts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tril_gym.agents.backbone import Decoder
from tril_gym.agents.decoding import logprobs_of, sample
from tril_gym.agents.layout import TextLayout
from tril_gym.agents.trajectories import Texts

if TYPE_CHECKING:
    from tril_gym.agents.policy import LMPolicy


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
