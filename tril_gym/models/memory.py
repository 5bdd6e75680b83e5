"""Estimate before loading what training a model needs in memory, and refuse what cannot fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

GIB = 2**30
# Tensors as large as the weights: for a network in training these, their gradients and Adam's two moments.
TRAINED, FROZEN = 4, 1


def count_weights(model_type: Any, config: Any) -> int:
    """Return the number of weights of a model without making any.

    Args:
        model_type: a class of `transformers`: an auto class, or that of a model.
        config: the model's configuration.
    """
    with torch.device("meta"):
        model = getattr(model_type, "from_config", model_type)(config)
    return sum(weight.numel() for weight in model.parameters())


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    table = Path("/proc/meminfo")
    if device.type != "cpu" or not table.is_file():
        return None
    rows = dict(line.split(":", 1) for line in table.read_text().splitlines())
    return int(rows["MemAvailable"].split()[0]) * 1024


def check_memory(name: str, weights: int, dtype: torch.dtype, copies: int, free: int | None) -> None:
    """Raise if training needs more memory than is free; activations are not counted.

    Args:
        name: of the model.
        weights: number of its weights.
        dtype: of weights, gradients and moments.
        copies: tensors as large as the weights; see `TRAINED` and `FROZEN`.
        free: bytes, if known.

    Raises:
        ValueError: it does.
    """
    needed = weights * dtype.itemsize * copies
    if free is None or needed <= free:
        return
    smaller = "" if dtype.itemsize == 2 else ", or --dtype bfloat16, which halves it and trains less exactly"
    raise ValueError(
        f"training all {weights / 1e6:,.0f} million weights of {name} in {str(dtype).removeprefix('torch.')} needs"
        f" {needed / GIB:.1f} GiB for weights, gradients and Adam's moments of all networks; {free / GIB:.1f} GiB are"
        f" free: train an adapter with --lora-rank 8{smaller}"
    )
