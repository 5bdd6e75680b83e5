"""Writing with a language model: one token after another on a batch of texts, with the model's cache.

B texts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from tril_gym.agents.collection.actor import Writer
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.functional.sampling import Decoding, logprobs_of, sample
from tril_gym.models.decoders import Decoder, NextTokenOutput
from tril_gym.models.language_model import LanguageModel
from tril_gym.models.noise import evaluation_mode, uses_gradient_checkpointing
from tril_gym.models.texts import Texts

# Ended texts are removed from the model's cache when they are this share of it; the last rows at once.
SHARE_TO_DROP = 1 / 8


class LMWriter(Writer):
    """Writes on B texts with one language model; see `Writer`.

    Args:
        language_model: the model.
        decoding: how its logits become the distribution that is sampled.
        texts: where they stop, on the model's device.
        layout: of the environment; no text ends before its `min_new_tokens`.
        value: of hidden states (B, D) -> (B,), of a critic on the same model; the model's `head` must be known.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        decoding: Decoding,
        texts: Texts,
        layout: TextLayout,
        *,
        value: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if not bool(texts.is_prompt.any(1).all()):
            row = int((~texts.is_prompt.any(1)).nonzero()[0])
            raise ValueError(f"text {row} of the batch has an empty prompt; a model needs at least one prompt token")
        self._language_model, self._decoding, self._layout, self._value = language_model, decoding, layout, value
        self.min_new_tokens = layout.min_new_tokens
        self.values: Tensor | None = None
        self.cut_mass: Tensor | None = None
        self.lengths = texts.lengths
        # `transformers` uses no cache in a model that trains with gradient checkpointing.
        self._cache_needs_evaluation_mode = uses_gradient_checkpointing(language_model.model)
        self._texts: Texts | None = texts  # until the decoder has read them
        self._decoder: Decoder | None = None
        self._rows = torch.arange(0)  # the decoder's row of each text that is written
        self._decoder_rows = 0  # its batch size
        self._is_in_order = True  # whether `_rows` is 0, 1, 2, …
        self._pending: Tensor | None = None  # written but not yet read: a text that ends here needs no further pass

    def next(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Write one token on every text."""
        with torch.inference_mode():  # less overhead for each operation than `no_grad`
            with evaluation_mode(self._language_model.model) if self._cache_needs_evaluation_mode else nullcontext():
                output = self._forward()
            if self._value is not None:
                assert output.state is not None, "the policy's head is not known"
                self.values = self._value(self._active(output.state))
            logits = self._decoding.apply(
                self._active(output.logits),
                self.lengths,
                eos_token_ids=self._layout.eos_token_ids,
                min_new_tokens=self.min_new_tokens,
            )
            tokens, logprobs = sample(logits, draws.to(logits.device, non_blocking=True))
            if self._decoding.scored != self._decoding:
                logprobs = self._uncut_logprobs(output, tokens, logprobs)
            self.lengths = self.lengths + 1
            self._pending = tokens
        # Tensors of inference mode cannot take part in a gradient; their copies can.
        self.values = None if self.values is None else self.values.clone()
        self.cut_mass = None if self.cut_mass is None else self.cut_mass.clone()
        return tokens.clone(), logprobs.clone()

    def _uncut_logprobs(self, output: NextTokenOutput, tokens: Tensor, logprobs: Tensor) -> Tensor:
        """Return log-probabilities (B,) without top-k and top-p, and note the probability that these exclude.

        log p = log (p / kept) + log kept
        """
        logits = self._decoding.scored.apply(
            self._active(output.logits),
            self.lengths,
            eos_token_ids=self._layout.eos_token_ids,
            min_new_tokens=self.min_new_tokens,
        )
        uncut = logprobs_of(logits, tokens)
        self.cut_mass = -torch.expm1((uncut - logprobs).clamp(max=0.0))
        return uncut

    def _forward(self) -> NextTokenOutput:
        """Let the model read what it has not read yet."""
        if self._decoder is None:
            assert self._texts is not None
            max_length = self._layout.max_prompt_length + self._layout.max_new_tokens
            self._decoder, self._texts = self._language_model.decoder(self._texts, max_length), None
            self._decoder_rows = len(self.lengths)
            self._rows = torch.arange(self._decoder_rows, device=self.lengths.device)
            return self._decoder.output
        assert self._pending is not None
        tokens = self._pending
        rows = self._decoder.batch_size_for(len(self._rows))
        if rows <= (self._decoder_rows - 1 if self._is_in_order else (1 - SHARE_TO_DROP) * self._decoder_rows):
            self._drop_ended(self._decoder, rows)
        is_written, is_full = None, len(self._rows) == self._decoder_rows
        if not is_full:
            is_written = torch.zeros(self._decoder_rows, dtype=torch.bool, device=tokens.device)
            is_written.index_fill_(0, self._rows, True)
        if not (is_full and self._is_in_order):
            tokens = tokens.new_zeros(self._decoder_rows).index_copy(0, self._rows, tokens)
        return self._decoder.append(tokens, is_written)

    def _active(self, of_decoder: Tensor) -> Tensor:
        """Select the texts that are written from a tensor of all the decoder's rows."""
        return of_decoder[: len(self._rows)] if self._is_in_order else of_decoder[self._rows]

    def _drop_ended(self, decoder: Decoder, rows: int) -> None:
        """Reduce the decoder to `rows` rows; active texts from the rows beyond take the places of ended ones."""
        before, device = self._rows, self._rows.device
        self._decoder_rows = rows
        if self._is_in_order:
            decoder.select_rows(slice(rows))
            return
        stays = before < rows
        is_free = torch.ones(rows, dtype=torch.bool, device=device).index_fill_(0, before[stays], False)
        self._rows = before.clone()
        self._rows[~stays] = is_free.nonzero().squeeze(1)[: int((~stays).sum())]
        decoder.select_rows(torch.arange(rows, device=device).index_copy_(0, self._rows, before))

    def keep(self, rows: Tensor) -> None:
        """Continue these texts only."""
        are_first = torch.equal(rows, torch.arange(len(rows), device=rows.device))
        rows = rows.to(self.lengths.device, non_blocking=True)
        self.lengths = self.lengths[rows]
        if self._texts is not None:
            self._texts = self._texts[rows]
        if self._pending is not None:
            self._pending = self._pending[rows]
        if self._decoder is not None:
            self._rows, self._is_in_order = self._rows[rows], self._is_in_order and are_first

    def close(self) -> None:
        """Release the cache."""
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = self._texts = None
