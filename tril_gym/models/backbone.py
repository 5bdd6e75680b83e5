"""Forward passes of a language model of `transformers` on prompts and tokens: decoder-only and encoder-decoder.

What differs between model families is in this module and in the decoders, which generate: padding sides, positions,
caches.

- Decoder-only: one sequence, prompt and tokens, padded on the left; explicit positions make that exact, and let texts
  share rows (packing.py).
- Encoder-decoder: prompts go to the encoder padded on the right. A decoder with relative positions (T5) may have
  its prefix right-aligned as well; one with absolute positions (BART) may not, so its columns stay left-aligned.

B texts, P prompt tokens, T new tokens, L columns of one sequence, V vocabulary, D hidden.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from tril_gym.models.causal_decoder import CausalDecoder
from tril_gym.models.compiled import CompiledDecoder, CompiledStep
from tril_gym.models.decoders import Decoder, position_ids
from tril_gym.models.encoder_decoder import AlignedDecoder, CachedDecoder, EncodedPrompts
from tril_gym.models.kernels import compile_bodies
from tril_gym.models.lm_head import Head
from tril_gym.models.packing import pack, supports_packing
from tril_gym.models.texts import Texts


class Backbone(Protocol):
    """The forward passes of one language model."""

    model: Any

    @property
    def can_pack(self) -> bool:
        """Whether `hidden` may read several texts in one row, so that texts of any lengths need little padding."""

    def logits(self, texts: Texts) -> Tensor:
        """Return the logits that predict each token: (B, T, V)."""

    def hidden(self, texts: Texts) -> Tensor:
        """Return the last hidden state before each token and after the last column: (B, T + 1, D)."""

    def decoder(self, texts: Texts, head: Head | None, max_length: int) -> Decoder:
        """Return a decoder that has read the texts.

        Args:
            texts: where they stop.
            head: the model's, if known apart from its body.
            max_length: tokens of prompt and completion that any text may reach.
        """

    def compile(self) -> None:
        """Compile the passes that are repeated most."""

    def check_positions(self, max_prompt_length: int, max_new_tokens: int) -> None:
        """Raise `ValueError` if texts can be longer than the model's positions."""


def backbone_of(model: Any) -> Backbone:
    """Return the backbone that fits a model."""
    return EncoderDecoder(model) if model.config.is_encoder_decoder else DecoderOnly(model)


def positions_of(config: Any) -> int | None:
    """Return how many tokens a model has positions for; None if positions are relative and unlimited."""
    if hasattr(config, "relative_attention_num_buckets"):
        return None
    return getattr(config, "max_position_embeddings", None)


def right_aligned(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the real ids of every row to the right end and drop unused columns: both (B, L)."""
    order, width = mask.byte().argsort(dim=1, stable=True), int(mask.sum(1).max())
    return _in_order(ids, mask, order[:, order.shape[1] - width :])


def left_aligned(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the real ids of every row to the left end and drop unused columns: both (B, L)."""
    order, width = (~mask).byte().argsort(dim=1, stable=True), int(mask.sum(1).max())
    return _in_order(ids, mask, order[:, :width])


def _in_order(ids: Tensor, mask: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Select the (B, L) columns of each row; ids are 0 outside the mask."""
    mask = mask.gather(1, columns)
    return ids.gather(1, columns).masked_fill(~mask, 0), mask


class DecoderOnly:
    """GPT-2, Llama, Qwen2 and the like."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.compiled: CompiledStep | None = None  # generates, if the model was compiled

    def logits(self, texts: Texts) -> Tensor:
        """Return (B, T, V). The head is applied to the completion's columns only."""
        sequence, width = self._sequence(texts.without_last()), texts.tokens.shape[1]
        logits = self.model(**sequence, use_cache=False, logits_to_keep=width).logits
        assert logits.shape[:2] == texts.tokens.shape, (logits.shape, texts.tokens.shape)
        return logits

    def hidden(self, texts: Texts) -> Tensor:
        """Return (B, T + 1, D). Texts share rows if that saves work and the model keeps them apart."""
        model = self.model
        packed = pack(texts, model.get_input_embeddings().weight.shape[1]) if self.can_pack else None
        if packed is not None:
            # As embeddings: without a mask, GPT-2 takes some ids for padding, and warns of it.
            embedded = model.get_input_embeddings()(packed.ids)
            output = model.base_model(inputs_embeds=embedded, position_ids=packed.positions, use_cache=False)
            return packed.states_of(output.last_hidden_state)
        output = model.base_model(**self._sequence(texts), use_cache=False)
        return output.last_hidden_state[:, -texts.tokens.shape[1] - 1 :]

    @cached_property
    def can_pack(self) -> bool:
        """Whether the model keeps texts in one row apart, found by a probe."""
        return supports_packing(self.model)

    def decoder(self, texts: Texts, head: Head | None, max_length: int) -> Decoder:
        """Read prompt and tokens in one forward pass."""
        ids = torch.cat([texts.prompts, texts.tokens], dim=1)
        ids, mask = right_aligned(ids, torch.cat([texts.is_prompt, texts.is_token], dim=1))
        decoder = CausalDecoder(self.model, head, ids, mask)
        if self.compiled is None or not decoder.can_be_compiled:
            return decoder
        return CompiledDecoder(self.compiled, decoder, max_length)

    def compile(self) -> None:
        """Compile the body for scoring, and one step of generation."""
        compile_bodies(self.model)
        self.compiled = CompiledStep(self.model)

    def check_positions(self, max_prompt_length: int, max_new_tokens: int) -> None:
        """Prompt and completion share the model's positions."""
        positions = positions_of(self.model.config)
        if positions is not None and max_prompt_length + max_new_tokens > positions:
            raise ValueError(
                f"the model has {positions} positions, the environment's texts need {max_prompt_length} +"
                f" {max_new_tokens}; make the environment with a smaller max_prompt_length or max_new_tokens"
            )

    def _sequence(self, texts: Texts) -> dict[str, Tensor]:
        texts = texts.prompts_trimmed()
        mask = torch.cat([texts.is_prompt, texts.is_token], dim=1)
        return {
            "input_ids": torch.cat([texts.prompts, texts.tokens], dim=1),
            "attention_mask": mask.long(),
            "position_ids": position_ids(mask),
        }


class EncoderDecoder:
    """T5, BART and the like."""

    can_pack = False  # encoders take no positions

    def __init__(self, model: Any) -> None:
        self.model = model

    def logits(self, texts: Texts) -> Tensor:
        """Return (B, T, V)."""
        width = texts.tokens.shape[1]
        decoder_ids, _ = self._with_start(texts.tokens[:, :-1], texts.is_token[:, :-1])
        prompts, is_prompt = left_aligned(texts.prompts, texts.is_prompt)
        # No decoder mask: padding is after the text, where the causal mask already hides it.
        output = self.model(
            input_ids=prompts, attention_mask=is_prompt.long(), decoder_input_ids=decoder_ids, use_cache=False
        )
        return output.logits[:, -width:]

    def hidden(self, texts: Texts) -> Tensor:
        """Return (B, T + 1, D), of the decoder."""
        decoder_ids, _ = self._with_start(texts.tokens, texts.is_token)
        prompts, is_prompt = left_aligned(texts.prompts, texts.is_prompt)
        memory = self.model.get_encoder()(input_ids=prompts, attention_mask=is_prompt.long()).last_hidden_state
        output = self.model.get_decoder()(
            input_ids=decoder_ids,
            encoder_hidden_states=memory,
            encoder_attention_mask=is_prompt.long(),
            use_cache=False,
        )
        return output.last_hidden_state[:, -texts.tokens.shape[1] - 1 :]

    def decoder(self, texts: Texts, head: Head | None, max_length: int) -> Decoder:
        """Encode the prompts once, then read the known tokens in one pass."""
        lengths = texts.lengths
        ids, mask = self._with_start(texts.tokens, texts.is_token)
        prompts = EncodedPrompts(self.model, head, *left_aligned(texts.prompts, texts.is_prompt))
        have_equal_lengths = bool((lengths == lengths[:1]).all())
        if have_equal_lengths or positions_of(self.model.config) is None:
            return CachedDecoder(prompts, *right_aligned(ids, mask))
        return AlignedDecoder(prompts, *left_aligned(ids, mask))

    def compile(self) -> None:
        """Compile encoder and decoder for scoring."""
        compile_bodies(self.model)

    def check_positions(self, max_prompt_length: int, max_new_tokens: int) -> None:
        """Prompts need positions of the encoder, completions of the decoder."""
        positions = positions_of(self.model.config)
        needed = max_new_tokens + len(decoder_start(self.model))  # a critic reads the last token, too
        if positions is not None and max(max_prompt_length, needed) > positions:
            raise ValueError(
                f"the model has {positions} positions, the environment's prompts need {max_prompt_length} and its"
                f" completions {needed}; make the environment with a smaller max_prompt_length or max_new_tokens"
            )

    def _with_start(self, tokens: Tensor, is_token: Tensor) -> tuple[Tensor, Tensor]:
        """Put the decoder's first S ids before (B, T) tokens: both (B, S + T)."""
        start = torch.tensor(decoder_start(self.model), device=tokens.device).expand(tokens.shape[0], -1)
        is_start = torch.ones_like(start, dtype=torch.bool)
        return torch.cat([start, tokens], dim=1), torch.cat([is_start, is_token], dim=1)


def decoder_start(model: Any) -> list[int]:
    """Return the ids before the first token of a completion: the start token, and BART's forced BOS.

    Raises:
        ValueError: the model names no start token.
    """
    start = model.generation_config.decoder_start_token_id
    if start is None:
        start = model.config.decoder_start_token_id
    if start is None:
        raise ValueError(
            f"{type(model).__name__} has no decoder_start_token_id, without which it cannot generate; set"
            " model.generation_config.decoder_start_token_id"
        )
    forced = model.generation_config.forced_bos_token_id
    return [start] if forced is None else [start, forced]
