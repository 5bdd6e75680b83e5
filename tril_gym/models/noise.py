"""Random noise inside a model (dropout, layer drop, router jitter), switched off for sampling and scoring alike.

Only the pretraining of tiny models may have dropout; everywhere else a model stays in evaluation mode. Gradient
checkpointing is the exception: `transformers` recomputes activations only in modules that are in training mode. There
only the modules that recompute are, not what they contain, and every rate of their own is 0.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

RATES = ("dropout", "dropout_prob", "dropout_p", "pdrop", "layerdrop")  # endings of the names of dropout rates
ATTENTION = "attn_dropout"  # ending of the name of the dropout of attention weights
JITTER = "jitter"  # in the names of the widths of noise on a router's input


def disable_dropout(model: Any) -> Any:
    """Put a model in evaluation mode and set every dropout rate of its modules to 0, in place; return it.

    The rates are set as well because single modules return to training mode with gradient checkpointing. The model's
    configuration, which is saved with it, keeps its rates.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        _set_to_zero(module, [name for name in vars(module) if name.endswith(RATES)])
    return model.eval()


@contextmanager
def dropout_of(model: nn.Module, rate: float) -> Iterator[None]:
    """Drop a share of the outputs of a model's layers inside the block, drawn from torch's global generator.

    Attention keeps all its weights, so that it is computed as it is without dropout.

    Srivastava et al. 2014: https://jmlr.org/papers/v15/srivastava14a.html
    """
    modules = model.named_modules() if rate else ()
    dropped = [module for name, module in modules if isinstance(module, nn.Dropout) and not name.endswith(ATTENTION)]
    for module in dropped:
        module.p = rate
        module.train()
    try:
        yield
    finally:
        for module in dropped:
            module.p = 0.0
            module.eval()


def _set_to_zero(owner: Any, names: list[str]) -> None:
    """Set those of the attributes to 0 that are floats."""
    for name in names:
        if isinstance(getattr(owner, name), float):
            setattr(owner, name, 0.0)


def checkpoint_gradients(model: Any) -> None:
    """Let a model of `transformers` recompute activations in the backward pass instead of keeping them."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable  # old name
    enable({"use_reentrant": False})  # the reentrant kind gives no gradient to adapters on a frozen model
    model.eval()
    quiet: dict[int, Any] = {}
    for module in model.modules():
        module.training = recomputes(module)
        if not module.training:
            continue  # in evaluation mode a jitter may still be a threshold, as in Phi-3.5-MoE: it is left alone
        _set_to_zero(module, _noise_of(module))
        config = vars(module).get("config")
        if module is not model and config is not None:  # layers may read their rates from it
            module.config = quiet.setdefault(id(config), copy.copy(config))
            _set_to_zero(module.config, _noise_of(module.config))


def _noise_of(owner: Any) -> list[str]:
    """Return the names of the attributes that set the strength of noise."""
    return [name for name in vars(owner) if name.endswith(RATES) or JITTER in name]


def recomputes(module: nn.Module) -> bool:
    """Return whether a module recomputes activations in its backward pass."""
    return bool(getattr(module, "gradient_checkpointing", False))


def uses_gradient_checkpointing(model: nn.Module) -> bool:
    """Return whether any module of a model recomputes activations in its backward pass."""
    return any(map(recomputes, model.modules()))


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode inside the block."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
