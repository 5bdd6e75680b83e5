"""How a language model of `transformers` reads prompts and tokens: decoder-only and encoder-decoder, one interface.

What differs between model families stands here and in decoders.py, which write on: padding sides, positions, caches.

- Decoder-only: one sequence, prompt and tokens, padded on the left; explicit positions make that exact, and let texts
  share rows (packing.py).
- Encoder-decoder: prompts go to the encoder padded on the right. A decoder with relative positions (T5) may have
  its prefix packed to the right as well; one with absolute positions (BART) may not, so its columns stay aligned.

B texts, P prompt tokens, T new tokens, L columns of one sequence, V vocabulary, D hidden.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tril_gym.models.decoders import AlignedDecoder, CachedDecoder, CausalDecoder, Decoder, EncodedPrompts, position_ids
from tril_gym.models.lm_head import Head
from tril_gym.models.packing import pack, supports_packing
from tril_gym.models.texts import Texts


class Backbone(Protocol):
    """Reads texts with one language model."""

    def logits(self, model: Any, texts: Texts) -> Tensor:
        """(B, T, V): the logits that predict each token."""

    def hidden(self, model: Any, texts: Texts) -> Tensor:
        """(B, T + 1, D): the last hidden state just before each token, and after the last column."""

    def can_pack(self, model: Any) -> bool:
        """Whether `hidden` may read several texts in one row, so that texts of any lengths need little padding."""

    def decoder(self, model: Any, texts: Texts, head: Head | None = None) -> Decoder:
        """Take up texts to write on them; `head` is the model's, where that is known apart from its body."""

    def check_room(self, model: Any, max_prompt_length: int, max_new_tokens: int) -> None:
        """Refuse texts that are longer than the model's positions."""


def backbone_of(model: Any) -> Backbone:
    """The reader that fits a model."""
    return EncoderDecoder() if model.config.is_encoder_decoder else DecoderOnly()


def positions_of(config: Any) -> int | None:
    """Tokens that a model has positions for; None where positions are relative and have no end."""
    if hasattr(config, "relative_attention_num_buckets"):
        return None
    return getattr(config, "max_position_embeddings", None)


def packed_right(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Push the real ids of every row to the right end and drop the columns that nobody needs: both (B, L)."""
    return _packed(ids, mask, "left")


def packed_left(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Push the real ids of every row to the left end and drop the columns that nobody needs: both (B, L)."""
    return _packed(ids, mask, "right")


def _packed(ids: Tensor, mask: Tensor, padding_side: str) -> tuple[Tensor, Tensor]:
    rows = [row[real] for row, real in zip(ids, mask, strict=True)]
    ones = [torch.ones_like(row, dtype=torch.bool) for row in rows]
    return (
        pad_sequence(rows, batch_first=True, padding_side=padding_side),
        pad_sequence(ones, batch_first=True, padding_side=padding_side),
    )


class DecoderOnly:
    """GPT-2, Llama, Qwen2 and the like."""

    def __init__(self) -> None:
        self._supports_packing: bool | None = None  # whether texts may share rows, once that is known

    def logits(self, model: Any, texts: Texts) -> Tensor:
        """(B, T, V). The head is applied to the completion's columns only."""
        sequence, width = self._sequence(texts.without_last()), texts.tokens.shape[1]
        logits = model(**sequence, use_cache=False, logits_to_keep=width).logits
        assert logits.shape[:2] == texts.tokens.shape, (logits.shape, texts.tokens.shape)
        return logits

    def hidden(self, model: Any, texts: Texts) -> Tensor:
        """(B, T + 1, D). Texts share rows where that saves work and the model keeps them apart."""
        packed = pack(texts, model.get_input_embeddings().weight.shape[1]) if self.can_pack(model) else None
        if packed is not None:
            # As embeddings: GPT-2 takes some ids for padding, and warns of it, where it is given no mask.
            embedded = model.get_input_embeddings()(packed.ids)
            output = model.base_model(inputs_embeds=embedded, position_ids=packed.positions, use_cache=False)
            return packed.states_of(output.last_hidden_state)
        output = model.base_model(**self._sequence(texts), use_cache=False)
        return output.last_hidden_state[:, -texts.tokens.shape[1] - 1 :]

    def can_pack(self, model: Any) -> bool:
        """Where the model keeps texts apart; found once."""
        if self._supports_packing is None:
            self._supports_packing = supports_packing(model)
        return self._supports_packing

    def decoder(self, model: Any, texts: Texts, head: Head | None = None) -> Decoder:
        """Prompt and tokens in one forward pass."""
        ids = torch.cat([texts.prompts, texts.tokens], dim=1)
        ids, mask = packed_right(ids, torch.cat([texts.is_prompt, texts.is_token], dim=1))
        return CausalDecoder(model, head, ids, mask)

    def check_room(self, model: Any, max_prompt_length: int, max_new_tokens: int) -> None:
        """Prompt and completion share the model's positions."""
        room = positions_of(model.config)
        if room is not None and max_prompt_length + max_new_tokens > room:
            raise ValueError(
                f"the model has {room} positions, the environment's texts need {max_prompt_length} + {max_new_tokens};"
                " make the environment with a smaller max_prompt_length or max_new_tokens"
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

    def logits(self, model: Any, texts: Texts) -> Tensor:
        """(B, T, V)."""
        start = _decoder_start(model)
        width = texts.tokens.shape[1]
        decoder_ids, _ = _with_start(start, texts.tokens[:, :-1], texts.is_token[:, :-1])
        prompts, is_prompt = packed_left(texts.prompts, texts.is_prompt)
        # No decoder mask: padding stands after the text, where the causal mask already hides it.
        output = model(
            input_ids=prompts, attention_mask=is_prompt.long(), decoder_input_ids=decoder_ids, use_cache=False
        )
        return output.logits[:, -width:]

    def hidden(self, model: Any, texts: Texts) -> Tensor:
        """(B, T + 1, D), of the decoder."""
        start = _decoder_start(model)
        decoder_ids, _ = _with_start(start, texts.tokens, texts.is_token)
        prompts, is_prompt = packed_left(texts.prompts, texts.is_prompt)
        memory = model.get_encoder()(input_ids=prompts, attention_mask=is_prompt.long()).last_hidden_state
        output = model.get_decoder()(
            input_ids=decoder_ids,
            encoder_hidden_states=memory,
            encoder_attention_mask=is_prompt.long(),
            use_cache=False,
        )
        return output.last_hidden_state[:, -texts.tokens.shape[1] - 1 :]

    def can_pack(self, model: Any) -> bool:
        """Never: encoders are not told positions."""
        return False

    def decoder(self, model: Any, texts: Texts, head: Head | None = None) -> Decoder:
        """Encode the prompts once, then read the known tokens in one pass."""
        lengths = texts.lengths
        ids, mask = _with_start(_decoder_start(model), texts.tokens, texts.is_token)
        prompts = EncodedPrompts(model, head, *packed_left(texts.prompts, texts.is_prompt))
        even = bool((lengths == lengths[:1]).all())
        if even or positions_of(model.config) is None:
            return CachedDecoder(prompts, *packed_right(ids, mask))
        return AlignedDecoder(prompts, *packed_left(ids, mask))

    def check_room(self, model: Any, max_prompt_length: int, max_new_tokens: int) -> None:
        """Prompts need positions of the encoder, completions of the decoder."""
        room = positions_of(model.config)
        needed = max_new_tokens + len(_decoder_start(model))  # a critic reads the last token, too
        if room is not None and max(max_prompt_length, needed) > room:
            raise ValueError(
                f"the model has {room} positions, the environment's prompts need {max_prompt_length} and its"
                f" completions {needed}; make the environment with a smaller max_prompt_length or max_new_tokens"
            )


def _decoder_start(model: Any) -> list[int]:
    """What stands before the first token of a completion: the start token, and BART's forced BOS."""
    start = model.generation_config.decoder_start_token_id
    if start is None:
        start = model.config.decoder_start_token_id
    if start is None:
        raise ValueError(f"{type(model).__name__} names no decoder_start_token_id, so no completion can begin")
    forced = model.generation_config.forced_bos_token_id
    return [start] if forced is None else [start, forced]


def _with_start(start: list[int], tokens: Tensor, is_token: Tensor) -> tuple[Tensor, Tensor]:
    """Put the decoder's first ids before (B, T) tokens: both (B, S + T)."""
    prefix = torch.tensor(start, device=tokens.device).expand(tokens.shape[0], -1)
    return torch.cat([prefix, tokens], dim=1), torch.cat([torch.ones_like(prefix, dtype=torch.bool), is_token], dim=1)
