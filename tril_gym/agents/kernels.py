"""What a model computes, by faster means: the same numbers, up to rounding."""

from __future__ import annotations

from typing import Any

from torch import nn


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


def compile_bodies(model: Any) -> Any:
    """Let torch compile what is called without a cache, for texts of any number and length; returns the model.

    The parts are called as before. Writing, whose cache grows with every token, calls their `forward`, which is not
    compiled.
    """
    parts = [model.get_encoder(), model.get_decoder()] if model.config.is_encoder_decoder else [model.base_model]
    for part in parts:
        part.compile(dynamic=True)
    return model
