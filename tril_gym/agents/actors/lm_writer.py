"""A language model writes: one token after another on a batch of texts, with the model's cache.

B texts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tril_gym.agents.collection.actor import Writer
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.functional.sampling import sample
from tril_gym.models.compiled import CompiledDecoder
from tril_gym.models.decoders import CausalDecoder, Decoder
from tril_gym.models.texts import Texts

if TYPE_CHECKING:
    from tril_gym.agents.actors.policy import LMPolicy


# Texts that have ended leave the model's cache together, once they are this share of it; the last ones at once.
SHARE_TO_DROP = 1 / 8


class LMWriter(Writer):
    """Writes on B texts with one language model; see `Writer`.

    Args:
        policy: the model, and how it is sampled.
        texts: where they stand.
        layout: of the environment.
        min_new_tokens: no text ends before it has so many.
        value: of hidden states (B, D) -> (B,), where a critic reads the same ones; needs a policy whose head is known.
    """

    def __init__(
        self,
        policy: LMPolicy,
        texts: Texts,
        layout: TextLayout,
        min_new_tokens: int,
        value: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if not bool(texts.is_prompt.any(1).all()):
            row = int((~texts.is_prompt.any(1)).nonzero()[0])
            raise ValueError(f"text {row} of the batch has an empty prompt; a model needs at least one prompt token")
        self.policy, self.layout, self.min_new_tokens, self._value = policy, layout, min_new_tokens, value
        self.values: Tensor | None = None
        self.lengths = texts.lengths
        # `transformers` keeps no keys and values while a model trains with checkpoints.
        self._cache_needs_evaluation = checkpoints_gradients(policy.model)
        self._texts: Texts | None = texts
        self._decoder: Decoder | None = None
        self._rows = torch.arange(0)  # the decoder's row of each text that is written
        self._decoder_rows = 0  # and how many it has
        self._is_in_order = True  # whether these are the first ones, in their order
        self._pending: Tensor | None = None  # written, not yet read: a text that ends here needs no further pass

    def next(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Write one token on every text."""
        with torch.inference_mode():  # less to do for each operation than without gradients
            tokens, logprobs = self._next(draws)
        # Copies may take part in what has gradients.
        self.values = None if self.values is None else self.values.clone()
        return tokens.clone(), logprobs.clone()

    def _next(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        with evaluating(self.policy.model) if self._cache_needs_evaluation else nullcontext():
            logits = self._read()
        logits = self.policy.decoding.apply(
            logits,
            self.lengths,
            eos_token_ids=self.layout.eos_token_ids,
            min_new_tokens=self.min_new_tokens,
        )
        tokens, logprobs = sample(logits, draws.to(logits.device))
        self.lengths = self.lengths + 1
        self._pending = tokens
        return tokens, logprobs

    def _read(self) -> Tensor:
        """Let the model read what it has not read yet: (B, V) logits of the next token."""
        if self._decoder is None:
            assert self._texts is not None
            self._decoder = self._prefill(self._texts)
            self._texts = None
            self._decoder_rows = len(self.lengths)
            self._rows = torch.arange(self._decoder_rows, device=self.lengths.device)
        elif self._pending is not None:
            self._append(self._pending)
        reading = self._decoder.reading()
        if self._value is not None:
            assert reading.state is not None, "the policy's head is not known"
            self.values = self._value(self._writing(reading.state))
        return self._writing(reading.logits)

    def _prefill(self, texts: Texts) -> Decoder:
        """A decoder that has read all that stands."""
        policy = self.policy
        decoder = policy.backbone.decoder(policy.model, texts, policy.head)
        if policy.compiled is None or not policy.compiled.takes_over(decoder):
            return decoder
        assert isinstance(decoder, CausalDecoder)
        return CompiledDecoder(policy.compiled, decoder, self.layout.max_prompt_length + self.layout.max_new_tokens)

    def _writing(self, of_decoder: Tensor) -> Tensor:
        """What is said of the texts that are written, of all that the decoder still has."""
        return of_decoder[: len(self._rows)] if self._is_in_order else of_decoder[self._rows]

    def _append(self, tokens: Tensor) -> None:
        assert self._decoder is not None
        rows = self._decoder.fits(len(self._rows))
        if rows <= (self._decoder_rows - 1 if self._is_in_order else (1 - SHARE_TO_DROP) * self._decoder_rows):
            self._drop_ended(rows)
        is_written, is_full = None, len(self._rows) == self._decoder_rows
        if not is_full:
            is_written = torch.zeros(self._decoder_rows, dtype=torch.bool, device=tokens.device)
            is_written.index_fill_(0, self._rows, True)
        if not (is_full and self._is_in_order):
            tokens = tokens.new_zeros(self._decoder_rows).index_copy(0, self._rows, tokens)
        self._decoder.append(tokens, is_written)

    def _drop_ended(self, rows: int) -> None:
        """Go on with so many of the decoder's rows; the texts that are written from others take the places of ended."""
        assert self._decoder is not None
        before, device = self._rows, self._rows.device
        self._decoder_rows = rows
        if self._is_in_order:
            self._decoder.keep(slice(rows))
            return
        stays = before < rows
        is_free = torch.ones(rows, dtype=torch.bool, device=device).index_fill_(0, before[stays], False)
        self._rows = before.clone()
        self._rows[~stays] = is_free.nonzero().squeeze(1)[: int((~stays).sum())]
        self._decoder.keep(torch.arange(rows, device=device).index_copy_(0, self._rows, before))

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        are_first = torch.equal(rows, torch.arange(len(rows), device=rows.device))
        rows = rows.to(self.lengths.device)
        self.lengths = self.lengths[rows]
        if self._texts is not None:
            self._texts = self._texts[rows]
        if self._pending is not None:
            self._pending = self._pending[rows]
        if self._decoder is not None:
            self._rows, self._is_in_order = self._rows[rows], self._is_in_order and are_first

    def close(self) -> None:
        """Let go of the cache."""
        if self._decoder is not None:
            self._decoder.close()
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
