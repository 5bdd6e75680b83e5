"""The number of CPU threads that torch computes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute on `count` CPU threads inside the block; None keeps torch's setting.

    Use one thread for tiny models: their matrices are too small to split, so more threads gain little on an idle
    machine and cost ten times the time on a busy one. One thread also fixes the order of sums, so results repeat.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
