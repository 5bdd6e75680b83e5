"""Nonsense to fill padding with, what appends it, and a second opinion on advantages."""

import math
import multiprocessing
import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture(params=[1e6, math.nan, math.inf], ids=str)
def garbage(request) -> float:
    """What no function may read."""
    return request.param


@pytest.fixture
def pad(garbage) -> Callable[[Tensor], Tensor]:
    """Append three columns: garbage to numbers, False to masks."""

    def append(tensor: Tensor) -> Tensor:
        fill = False if tensor.dtype == torch.bool else garbage
        return torch.cat([tensor, tensor.new_full((tensor.shape[0], 3), fill)], dim=1)

    return append


@pytest.fixture(scope="session")
def torchrl_gae() -> Callable[..., tuple[Tensor, Tensor]]:
    """TorchRL's advantages and returns; what importing it sets for the whole process is set back."""
    environment, start_method = dict(os.environ), multiprocessing.get_start_method(allow_none=True)
    from torchrl.objectives.value.functional import generalized_advantage_estimate

    multiprocessing.set_start_method(start_method, force=True)
    os.environ.clear()
    os.environ.update(environment)
    return generalized_advantage_estimate
