"""Forward passes of a language model of `transformers` on prompts and tokens: decoder-only and encoder-decoder.

What differs between model families is in this module and in the decoders, which generate: padding sides, positions,
caches.

- Decoder-only: one sequence, prompt and tokens, padded on the left; explicit positions make that exact, and let texts
  share rows (packing.py).
- Encoder-decoder: prompts go to the encoder padded on the right. A decoder with relative positions (T5) may have
  its prefix right-aligned as well; one with absolute positions (BART) may not, so its columns stay left-aligned.

What a config does not tell is a `ReadingMode`, which a probe finds (agents/actors/model_check.py).

B texts, P prompt tokens, T new tokens, L columns of one sequence, V vocabulary, D hidden.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any, Protocol

import torch
from torch import Tensor

from tril_gym.models.architecture import body_of, decoder_start, dense_limit, infers_masks, positions_of, rope_limit
from tril_gym.models.causal_decoder import CausalDecoder
from tril_gym.models.compiled import CompiledDecoder, CompiledStep
from tril_gym.models.decoders import (
    Decoder,
    NextTokenOutput,
    ReadingMode,
    RereadingDecoder,
    position_ids,
)
from tril_gym.models.encoder_decoder import CachedDecoder, EncodedPrompts
from tril_gym.models.kernels import compile_bodies
from tril_gym.models.lm_head import Head
from tril_gym.models.packing import pack, supports_packing
from tril_gym.models.texts import Texts


class Backbone(Protocol):
    """The forward passes of one language model."""

    model: Any
    mode: ReadingMode

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


def backbone_of(model: Any, mode: ReadingMode | None = None) -> Backbone:
    """Return the backbone that fits a model."""
    kind = EncoderDecoder if model.config.is_encoder_decoder else DecoderOnly
    return kind(model, mode or ReadingMode())


def longest_completion(backbone: Backbone, max_prompt_length: int, most: int) -> int:
    """Return the greatest number of new tokens, up to `most`, that a model has positions for; 0 for none."""
    for new_tokens in range(most, 0, -1):
        try:
            backbone.check_positions(max_prompt_length, new_tokens)
        except ValueError:
            continue
        return new_tokens
    return 0


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

    def __init__(self, model: Any, mode: ReadingMode) -> None:
        self.model, self.mode = model, mode
        self.compiled: CompiledStep | None = None  # generates, if the model was compiled

    def logits(self, texts: Texts) -> Tensor:
        """Return (B, T, V). The head is applied to the completion's columns only."""
        width = texts.tokens.shape[1]
        if self.mode.from_first_column:
            ids, mask = self._left_aligned(texts.without_last())
            logits = self.model(input_ids=ids, use_cache=False).logits
            return _states_before(logits, texts, mask)[:, :width]
        sequence = self._sequence(texts.without_last())
        logits = self.model(**sequence, use_cache=False, logits_to_keep=width).logits
        assert logits.shape[:2] == texts.tokens.shape, (logits.shape, texts.tokens.shape)
        return logits

    def hidden(self, texts: Texts) -> Tensor:
        """Return (B, T + 1, D). Texts share rows if that saves work and the model keeps them apart."""
        model = self.model
        if self.mode.from_first_column:
            ids, mask = self._left_aligned(texts)
            return _states_before(body_of(model)(input_ids=ids, use_cache=False).last_hidden_state, texts, mask)
        packed = pack(texts, model.get_input_embeddings().weight.shape[1]) if self.can_pack else None
        if packed is not None:
            output = body_of(model)(input_ids=packed.ids, position_ids=packed.positions, use_cache=False)
            return packed.states_of(output.last_hidden_state)
        output = body_of(model)(**self._sequence(texts), use_cache=False)
        return output.last_hidden_state[:, -texts.tokens.shape[1] - 1 :]

    @cached_property
    def can_pack(self) -> bool:
        """Whether the model keeps texts in one row apart, found by a probe."""
        return self.mode.packs and not self.mode.from_first_column and supports_packing(self.model)

    def decoder(self, texts: Texts, head: Head | None, max_length: int) -> Decoder:
        """Read prompt and tokens in one forward pass."""
        if self.mode.cache == "none":
            return RereadingDecoder(partial(self._read, head), *self._left_aligned(texts))
        ids = torch.cat([texts.prompts, texts.tokens], dim=1)
        ids, mask = right_aligned(ids, torch.cat([texts.is_prompt, texts.is_token], dim=1))
        decoder = CausalDecoder(self.model, head, ids, mask, rows_leave=self.mode.cache == "rows")
        if self.compiled is None or not decoder.can_be_compiled:
            return decoder
        return CompiledDecoder(self.compiled, decoder, max_length)

    def _read(self, head: Head | None, ids: Tensor, last: Tensor) -> NextTokenOutput:
        """Read left-aligned texts (B, L) and predict the token after the column `last` (B,) of each."""
        rows = torch.arange(len(last), device=last.device)
        if head is None:
            return NextTokenOutput(self.model(input_ids=ids, use_cache=False).logits[rows, last], None)
        state = body_of(self.model)(input_ids=ids, use_cache=False).last_hidden_state[rows, last]
        return NextTokenOutput(head(state), state)

    @staticmethod
    def _left_aligned(texts: Texts) -> tuple[Tensor, Tensor]:
        mask = torch.cat([texts.is_prompt, texts.is_token], dim=1)
        return left_aligned(torch.cat([texts.prompts, texts.tokens], dim=1), mask)

    def compile(self) -> None:
        """Compile the body for scoring, and one step of generation."""
        compile_bodies(self.model)
        self.compiled = CompiledStep(self.model)

    def check_positions(self, max_prompt_length: int, max_new_tokens: int) -> None:
        """Prompt and completion share the model's positions."""
        config = self.model.config
        positions, changes_at = positions_of(config), rope_limit(config)
        if changes_at is not None and max_prompt_length + max_new_tokens > changes_at:
            raise ValueError(
                f"the rotary positions of {config.model_type} change for a whole batch as soon as one text is longer"
                f" than {changes_at} tokens (longrope), the environment's texts need {max_prompt_length} +"
                f" {max_new_tokens}; {_with_room(changes_at, max_prompt_length, max_new_tokens)}"
            )
        if positions is not None and max_prompt_length + max_new_tokens > positions:
            raise ValueError(
                f"the model has {positions} positions, the environment's texts need {max_prompt_length} +"
                f" {max_new_tokens}; {_with_room(positions, max_prompt_length, max_new_tokens)}"
            )
        _check_dense(config, "texts", max_prompt_length + max_new_tokens)

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

    def __init__(self, model: Any, mode: ReadingMode) -> None:
        self.model, self.mode = model, mode

    def logits(self, texts: Texts) -> Tensor:
        """Return (B, T, V)."""
        width = texts.tokens.shape[1]
        decoder_ids, _ = self._with_start(texts.tokens[:, :-1], texts.is_token[:, :-1])
        prompts, is_prompt = left_aligned(texts.prompts, texts.is_prompt)
        output = self.model(
            input_ids=prompts,
            attention_mask=is_prompt.long(),
            decoder_input_ids=decoder_ids,
            decoder_attention_mask=self._decoder_mask(decoder_ids),
            use_cache=False,
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
            attention_mask=self._decoder_mask(decoder_ids),
            use_cache=False,
        )
        return output.last_hidden_state[:, -texts.tokens.shape[1] - 1 :]

    def decoder(self, texts: Texts, head: Head | None, max_length: int) -> Decoder:
        """Encode the prompts once, then read the known tokens in one pass."""
        lengths = texts.lengths
        ids, mask = self._with_start(texts.tokens, texts.is_token)
        prompts = EncodedPrompts(self.model, head, *left_aligned(texts.prompts, texts.is_prompt))
        have_equal_lengths = bool((lengths == lengths[:1]).all())
        can_shift = positions_of(self.model.config) is None and not self.mode.from_first_column
        if self.mode.cache != "none" and (have_equal_lengths or can_shift):
            return CachedDecoder(prompts, *right_aligned(ids, mask), rows_leave=self.mode.cache == "rows")
        return RereadingDecoder(prompts.decode, *left_aligned(ids, mask), select=prompts.select_rows)

    def compile(self) -> None:
        """Compile encoder and decoder for scoring."""
        compile_bodies(self.model)

    def check_positions(self, max_prompt_length: int, max_new_tokens: int) -> None:
        """Prompts need positions of the encoder, completions of the decoder."""
        start = len(decoder_start(self.model))
        lengths = {"encoder": ("prompts", "max_prompt_length", max_prompt_length, 0)}
        lengths["decoder"] = ("completions", "max_new_tokens", max_new_tokens, start)  # a critic reads the last token
        for side, (texts, setting, length, more) in lengths.items():
            positions = positions_of(self.model.config, side)
            if positions is not None and length + more > positions:
                raise ValueError(
                    f"the model's {side} has {positions} positions, the environment's {texts} need {length + more};"
                    f" {_shorter_texts(setting, positions - more)}"
                )
        _check_dense(self.model.config, "prompts", max_prompt_length)
        capacity = self.model.config.expert_capacity if self.model.config.model_type == "switch_transformers" else None
        if capacity is not None and max_new_tokens + start > capacity:
            raise ValueError(
                f"experts of {self.model.config.model_type} drop tokens of completions longer than"
                f" expert_capacity={capacity} when these are scored, the environment's completions need"
                f" {max_new_tokens + start}; load the model with expert_capacity={max_new_tokens + start}, as"
                f" LMPolicy.from_pretrained(name, expert_capacity={max_new_tokens + start}) does, or"
                f" {_shorter_texts('max_new_tokens', capacity - start)}"
            )

    def _decoder_mask(self, ids: Tensor) -> Tensor | None:
        """Return a mask of ones for a model that would make another: a causal mask hides padding after the text."""
        return torch.ones_like(ids) if infers_masks(self.model.config) else None

    def _with_start(self, tokens: Tensor, is_token: Tensor) -> tuple[Tensor, Tensor]:
        """Put the decoder's first S ids before (B, T) tokens: both (B, S + T)."""
        start = torch.tensor(decoder_start(self.model), device=tokens.device).expand(tokens.shape[0], -1)
        is_start = torch.ones_like(start, dtype=torch.bool)
        return torch.cat([start, tokens], dim=1), torch.cat([is_start, is_token], dim=1)


def _states_before(states: Tensor, texts: Texts, mask: Tensor) -> Tensor:
    """Select the states before each token and after the last: (B, L, D) of left-aligned texts -> (B, T + 1, D).

    Those past the end of a text are its last one.
    """
    before = torch.arange(texts.tokens.shape[1] + 1, device=states.device)
    last = (mask.sum(1) - 1).unsqueeze(1)
    columns = torch.minimum(texts.prompt_lengths.unsqueeze(1) - 1 + before, last)
    return states.gather(1, columns.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


def _check_dense(config: Any, texts: str, length: int) -> None:
    """Raise `ValueError` where texts of a length have block-sparse attention, which BigBird loses by a short text."""
    most = dense_limit(config)
    if most is not None and length > most:
        raise ValueError(
            f"{config.model_type} with attention_type='block_sparse' attends to blocks of texts of more than {most}"
            " tokens, until a shorter batch switches that off for good; the environment's"
            f" {texts} need {length}; load the model with attention_type='original_full', as"
            " LMPolicy.from_pretrained(name, attention_type='original_full') does"
        )


def _with_room(limit: int, max_prompt_length: int, max_new_tokens: int) -> str:
    """Return what to write so that prompt and completion together have at most `limit` tokens."""
    if max_prompt_length < limit:
        return _shorter_texts("max_new_tokens", limit - max_prompt_length)
    return _shorter_texts("max_prompt_length", limit - max_new_tokens)


def _shorter_texts(setting: str, value: int) -> str:
    return f"make the environment with {setting}={max(1, value)} or less (--env-arg {setting}={max(1, value)})"
