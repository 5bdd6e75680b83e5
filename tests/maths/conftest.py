"""Nonsense to fill padding with, and what appends it."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture(params=[1e6, math.nan, math.inf], ids=str)
def nonsense(request) -> float:
    """What no function may read."""
    return request.param


@pytest.fixture
def pad(nonsense) -> Callable[[Tensor], Tensor]:
    """Append three columns: nonsense to numbers, False to masks."""

    def append(tensor: Tensor) -> Tensor:
        fill = False if tensor.dtype == torch.bool else nonsense
        return torch.cat([tensor, tensor.new_full((tensor.shape[0], 3), fill)], dim=1)

    return append
