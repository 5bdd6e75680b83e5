"""Seeds for code of libraries that draws from torch's global generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(*seeds: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Fork torch's global generators and seed them inside the block.

    Args:
        seeds: one seed is used as it is; several are mixed into one, such as a run's seed and the number of a step.
        device: also fork and seed the generator of this CUDA device.
    """
    number = seeds[0] if len(seeds) == 1 else int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]) >> 1
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(number)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield
