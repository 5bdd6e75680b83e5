"""What a model computes, by faster means: the same numbers, up to rounding."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

ATTENTION = "tril_gym_sdpa"  # what `transformers` knows `attend` by
MASKED = torch.finfo(torch.float32).min  # instead of −inf, which would give a row without any key NaN


def use_fast_kernels(model: Any) -> Any:
    """Let a model compute its activations in one kernel, and single queries on a CPU with products of matrices.

    In place; returns the model.
    """
    return use_attend(fuse_activations(model))


def fuse_activations(model: Any) -> Any:
    """Compute GELU's tanh approximation in one kernel, in place; GPT-2 and some T5s spell it out in eight.

        0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))

    Hendrycks & Gimpel 2016, section 2: https://arxiv.org/abs/1606.08415
    """
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
    return model


def use_attend(model: Any) -> Any:
    """Let a model that attends with torch's `scaled_dot_product_attention` use `attend`, in place."""
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

    AttentionInterface.register(ATTENTION, single_query_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    # A family may have an attention of its own under torch's name, which must stay.
    known = getattr(sys.modules.get(type(model).__module__), "ALL_ATTENTION_FUNCTIONS", None)
    if model.config._attn_implementation == "sdpa" and known is ALL_ATTENTION_FUNCTIONS:
        model.set_attn_implementation(ATTENTION)
    return model


def takes_masks_as_they_are(model: Any) -> bool:
    """Whether a model hands masks of (B, 1, Q, L) on to `attend`: those do that ask `transformers` for an attention."""
    return bool(model.config._attn_implementation == ATTENTION)


def single_query_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attention as `transformers` calls it: softmax(scaling · q kᵀ + bias) v of a single query on a CPU.

    There torch's kernel takes its time whatever is asked. All else is left to it.

    Args:
        module:         whose attention it is.
        query:          (B, H, Q, D)
        key:            (B, H or fewer, L, D)
        value:          likewise.
        attention_mask: (B or 1, H or 1, Q, L) True where a query may look, or numbers that are added; None: everywhere.
        scaling:        D^−½ where it is not given.
        position_bias:  (1, H, Q, L) is added.
        settings:       dropout and the like.

    Returns:
        (B, Q, H, D), and no weights.
    """
    if not _is_single(query, key, settings):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        more = settings if position_bias is None else settings | {"position_bias": position_bias}
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)  # type: ignore[no-any-return]
    B, H, _, D = query.shape  # noqa: N806
    L = key.shape[2]  # noqa: N806
    keys, values = key.reshape(B * H, L, D), value.reshape(B * H, L, D)
    scores = torch.bmm(query.reshape(B * H, 1, D), keys.transpose(1, 2)).view(B, H, 1, L)
    scores *= D**-0.5 if scaling is None else scaling
    if position_bias is not None:
        scores += position_bias
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = torch.where(attention_mask, scores, MASKED)
    elif attention_mask is not None:
        scores += attention_mask
    found = torch.bmm(scores.softmax(-1).view(B * H, 1, L), values)
    return found.view(B, 1, H, D), None


def _is_single(query: Tensor, key: Tensor, settings: dict[str, Any]) -> bool:
    """Whether `attend` can do it: one query of numbers in float32 on a CPU, from which nobody learns."""
    return (
        query.shape[2] == 1
        and query.device.type == "cpu"
        and query.dtype == torch.float32
        and key.shape[1] == query.shape[1]
        and not query.requires_grad
        and not settings.get("dropout")
        and settings.get("softcap") is None
    )


def compile_bodies(model: Any) -> Any:
    """Let torch compile what is called without a cache, for texts of any number and length; returns the model.

    The parts are called as before. Writing, whose cache grows with every token, calls their `forward`, which is not
    compiled.
    """
    parts = [model.get_encoder(), model.get_decoder()] if model.config.is_encoder_decoder else [model.base_model]
    for part in parts:
        part.compile(dynamic=True)
    return model
