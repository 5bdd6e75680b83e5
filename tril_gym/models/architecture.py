"""What a model's configuration says of it: its parts, its limits, and how its decoder starts."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel


def body_of(model: Any) -> Any:
    """Return a decoder-only model without its head. In Llama 4 `base_model` is the whole model, its body a part."""
    if model.base_model is not model:
        return model.base_model
    return next((part for part in model.children() if isinstance(part, PreTrainedModel)), model)


def positions_of(config: Any, side: str = "decoder") -> int | None:
    """Return how many tokens a model has positions for; None if positions are relative and unlimited.

    Args:
        config: of the model.
        side: "encoder" or "decoder", which may have different limits, as in LED.
    """
    if hasattr(config, "relative_attention_num_buckets"):
        return None
    of_side = getattr(config, f"max_{side}_position_embeddings", None)
    return of_side if of_side is not None else getattr(config, "max_position_embeddings", None)


def rope_limit(config: Any) -> int | None:
    """Return the length beyond which rotary positions change for a whole batch (longrope); None if they never do."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) != "longrope":
        return None
    limit = rope.get("original_max_position_embeddings")
    return limit if limit is not None else getattr(config, "original_max_position_embeddings", None)


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


def eos_ids_of(model: Any) -> tuple[int, ...]:
    """Return the ids at which a model's texts end by its generation config: none, one, or several, as in Llama 3."""
    named = model.generation_config.eos_token_id
    if named is None:
        return ()
    return tuple(named) if isinstance(named, list | tuple) else (named,)
