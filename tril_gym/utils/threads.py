"""How many threads small models compute on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread within the block.

    The matrices of tiny models are too small to share out: more threads gain a little on an idle machine, and on a
    busy one cost ten times the time. And sums in one order give the same weights everywhere.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
