"""What a model's configuration says of it: its parts, its limits, and how its decoder starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tril_gym.models.lora import is_peft_model
from tril_gym.utils.config_fields import describe_type

# RoBERTa and its kin, whose first position is the one after that of their padding id.
COUNT_FROM_PADDING = {"roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "xmod"}
COUNT_FROM_PADDING |= {"data2vec-text"}


def is_transformers_model(found: Any) -> bool:
    """Return whether an object is a model of `transformers`."""
    from transformers import PreTrainedModel  # seconds, which a help page should not take

    return isinstance(found, PreTrainedModel)


def body_of(model: Any) -> Any:
    """Return a decoder-only model without its head. In Llama 4 `base_model` is the whole model, its body a part."""
    if model.base_model is not model:
        return model.base_model
    return next((part for part in model.children() if is_transformers_model(part)), model)


def positions_of(config: Any, side: str = "decoder") -> int | None:
    """Return how many tokens a model has positions for; None if positions are relative and unlimited.

    Args:
        config: of the model.
        side: "encoder" or "decoder", which may have different limits, as in LED.
    """
    if hasattr(config, "relative_attention_num_buckets"):
        return None
    of_side = getattr(config, f"max_{side}_position_embeddings", None)
    positions = of_side if of_side is not None else getattr(config, "max_position_embeddings", None)
    unused = config.pad_token_id + 1 if config.model_type in COUNT_FROM_PADDING else 0
    return positions if positions is None else positions - unused


def rope_limit(config: Any) -> int | None:
    """Return the length beyond which rotary positions change for a whole batch (longrope); None if they never do."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    parts = (rope, *rope.values()) if isinstance(rope, dict) else ()  # which may be settings by type of layer
    found = [part for part in parts if isinstance(part, dict) and part.get("rope_type", part.get("type")) == "longrope"]
    usual = getattr(config, "original_max_position_embeddings", None)
    limits = (part.get("original_max_position_embeddings") or usual for part in found)
    return min((limit for limit in limits if limit is not None), default=None)


def dense_limit(config: Any) -> int | None:
    """Return the length up to which BigBird attends to all tokens; None for other models, and where it always does."""
    if getattr(config, "attention_type", None) != "block_sparse":
        return None
    return (5 + 2 * config.num_random_blocks) * config.block_size


def attends_by_blocks(config: Any) -> bool:
    """Return whether attention chooses blocks of columns (MiniMax-M3), which padding before a text would shift."""
    return getattr(config.get_text_config(), "index_block_size", None) is not None


def infers_masks(config: Any) -> bool:
    """Return whether a model that is given no mask takes padding ids within a text for padding (T5Gemma)."""
    return config.model_type in ("t5gemma", "t5gemma2")


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


def is_encoder(config: Any) -> bool:
    """Return whether models of a configuration read texts in both directions, as BERT does, and so write none."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    is_bidirectional = config.model_type in {*MODEL_FOR_MASKED_LM_MAPPING_NAMES, "bert-generation"}
    return is_bidirectional and not config.is_encoder_decoder and not getattr(config, "is_decoder", False)


def check_is_language_model(model: Any) -> None:
    """Raise unless an object is a model of `transformers` that can write texts.

    Raises:
        TypeError: it is none, or one without a language-modelling head.
        ValueError: it is an encoder.
    """
    if not is_transformers_model(model):
        way_out = (
            "; LMPolicy.from_pretrained(name) loads one by name or folder" if isinstance(model, str | Path) else ""
        )
        raise TypeError(
            "a policy's model must be a causal or an encoder-decoder model of transformers, got"
            f" {describe_type(model)}{way_out}"
        )
    check_writes(model.config, type(model).__name__)
    if model.get_output_embeddings() is None:
        raise TypeError(
            f"{type(model).__name__} has no language-modelling head, so it writes no texts; load the model with"
            " AutoModelForCausalLM or AutoModelForSeq2SeqLM, or with LMPolicy.from_pretrained"
        )


def check_writes(config: Any, name: str) -> None:
    """Raise `ValueError` where a configuration is that of an encoder.

    Args:
        config: of `transformers`.
        name: of the model, for the message.
    """
    if is_encoder(config):
        raise ValueError(
            f"{name} is a {config.model_type} model: an encoder, which reads texts in both directions and cannot write"
            " them; choose a decoder-only model such as gpt2, or an encoder-decoder such as t5-base"
        )


def is_model(found: Any) -> bool:
    """Return whether an object is a model of `transformers`, or one that peft wraps."""
    return is_transformers_model(found) or is_peft_model(found)


def eos_ids_of(model: Any) -> tuple[int, ...]:
    """Return the ids at which a model's texts end by its generation config: none, one, or several, as in Llama 3."""
    named = model.generation_config.eos_token_id
    if named is None:
        return ()
    return tuple(named) if isinstance(named, list | tuple) else (named,)
