"""Faster implementations of what a model computes: the same numbers, up to rounding."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tril_gym.models.architecture import body_of, is_transformers_model

ATTENTION = "tril_gym_sdpa"  # name of `single_query_attention` in `transformers`
# What depends on the name of torch's attention: `== "sdpa"`, `in ("eager", "sdpa")`.
COMPARES_WITH_SDPA = re.compile(r"""([!=]=|\bin)\s*[(\[{]?[^()\[\]{}:=]*["']sdpa["']""")
MASKED = torch.finfo(torch.float32).min  # instead of −inf, which gives NaN in a row without any key


def use_fast_kernels(model: Any) -> Any:
    """Fuse a model's activations, and let it use `single_query_attention`, in place; return the model."""
    return use_single_query_attention(fuse_activations(skip_padding_check(model)))


def skip_padding_check(model: Any) -> Any:
    """Let a model take every id for a token, in place; return the model.

    GPT-2 and others that are given no mask search the ids for padding, which waits for the device, and warn of it.
    """
    for module in model.modules():
        if is_transformers_model(module):
            module.warn_if_padding_and_no_attention_mask = _skip  # type: ignore[method-assign]
    return model


def _skip(*_: Any) -> None:
    """Do nothing."""


def fuse_activations(model: Any) -> Any:
    """Compute GELU's tanh approximation in one kernel, in place; GPT-2 and some T5s use eight. Return the model.

        0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))

    Hendrycks & Gimpel 2016, section 2: https://arxiv.org/abs/1606.08415
    """
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
    return model


def use_single_query_attention(model: Any) -> Any:
    """Replace torch's `scaled_dot_product_attention` in a model by `single_query_attention`, in place; return it."""
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

    AttentionInterface.register(ATTENTION, single_query_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    # A family may have registered an attention of its own under the name "sdpa", which must stay. Others, such as those
    # with sparse masks, give an attention of another name something else.
    registry = getattr(sys.modules.get(type(model).__module__), "ALL_ATTENTION_FUNCTIONS", None)
    is_usual = model.config._attn_implementation == "sdpa" and registry is ALL_ATTENTION_FUNCTIONS
    if is_usual and not any(map(_compares_with_sdpa, {type(module).__module__ for module in model.modules()})):
        model.set_attn_implementation(ATTENTION)
    return model


@cache
def _compares_with_sdpa(module: str) -> bool:
    """Return whether the code of a module depends on whether its attention is named "sdpa"."""
    try:
        return bool(COMPARES_WITH_SDPA.search(inspect.getsource(sys.modules[module])))
    except (KeyError, OSError, TypeError):  # it has no source, as one that was made in memory
        return False


@contextmanager
def original_attention(model: Any) -> Iterator[None]:
    """Let a model compute with the attention that it had before `use_single_query_attention`, within a block."""
    is_replaced = accepts_4d_masks(model)
    if is_replaced:
        model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        if is_replaced:
            model.set_attn_implementation(ATTENTION)


def accepts_4d_masks(model: Any) -> bool:
    """Return whether a model passes masks of (B, 1, Q, L) to its attention unchanged."""
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
    """Compute softmax(scaling · q kᵀ + bias) v, for a single query on a CPU by two matrix products.

    There torch's own kernel has a large fixed cost; it computes all other cases. Called by `transformers`.

    Args:
        module:         the attention layer.
        query:          (B, H, Q, D)
        key:            (B, H or fewer, L, D)
        value:          (B, H or fewer, L, D)
        attention_mask: (B or 1, H or 1, Q, L) True where a query attends, or numbers to add; None: everywhere.
        scaling:        by default D^−½.
        position_bias:  (1, H, Q, L) to add.
        settings:       dropout and the like.

    Returns:
        (B, Q, H, width of the values), and None in place of the attention weights.
    """
    if not _is_single(query, key, settings):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        more = settings if position_bias is None else settings | {"position_bias": position_bias}
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)  # type: ignore[no-any-return]
    B, H, _, D = query.shape  # noqa: N806
    L = key.shape[2]  # noqa: N806
    keys, values = key.reshape(B * H, L, D), value.reshape(B * H, L, value.shape[3])  # DeepSeek's are narrower
    scores = torch.bmm(query.reshape(B * H, 1, D), keys.transpose(1, 2)).view(B, H, 1, L)
    scores *= D**-0.5 if scaling is None else scaling
    if position_bias is not None:
        scores += position_bias
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = torch.where(attention_mask, scores, MASKED)
    elif attention_mask is not None:
        scores += attention_mask
    output = torch.bmm(scores.softmax(-1).view(B * H, 1, L), values)
    return output.view(B, 1, H, value.shape[3]), None


def _is_single(query: Tensor, key: Tensor, settings: dict[str, Any]) -> bool:
    """Return whether the matrix products apply: one float32 query a text, on a CPU, without gradient."""
    return (
        query.shape[2] == 1
        and query.device.type == "cpu"
        and query.dtype == torch.float32
        and key.shape[1] == query.shape[1]
        and not query.requires_grad
        and not settings.get("dropout")
        and settings.get("softcap") is None
    )


def compile_bodies(model: Any) -> None:
    """Compile the passes without a cache, for texts of any number and length, in place.

    The parts are called as before. Generation, whose cache grows with every token, calls their `forward`, which is not
    compiled.
    """
    parts = [model.get_encoder(), model.get_decoder()] if model.config.is_encoder_decoder else [body_of(model)]
    for part in parts:
        part.compile(dynamic=True)
