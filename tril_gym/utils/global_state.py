"""Global state of libraries, put back after a block that changes it."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

LOGGERS = ("transformers", "datasets", "accelerate", "peft")


@contextmanager
def preserve_global_state() -> Iterator[None]:
    """Restore random generators, log levels and accelerate's state after the block, which may change all of them.

    `transformers.Trainer` seeds the generators of Python, NumPy and torch, sets log levels, chooses a CUDA device and
    replaces the process-wide state of accelerate, after which `Accelerator(mixed_precision=…)` raises.
    """
    import numpy as np
    import torch

    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002  (the global generator)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count())))
        if torch.cuda.is_available():
            stack.enter_context(torch.cuda.device(torch.cuda.current_device()))
        stack.enter_context(_preserve_accelerate_state())
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def _preserve_accelerate_state() -> Iterator[None]:
    before = [dict(shared) for shared in _accelerate_states()]  # none where accelerate is not imported
    try:
        yield
    finally:
        for shared, content in zip(_accelerate_states(), before or [{}] * 3, strict=False):
            shared.clear()
            shared.update(content)


def _accelerate_states() -> list[dict[str, Any]]:
    """Return the dictionaries that all instances of accelerate's state classes share."""
    module = sys.modules.get("accelerate.state")
    if module is None:
        return []
    return [kind._shared_state for kind in (module.PartialState, module.AcceleratorState, module.GradientState)]
