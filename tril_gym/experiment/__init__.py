"""Runs: train agents in run folders with checkpoints and metrics, and evaluate policies.

The public names load on first use (PEP 562), so that importing a module of this package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tril_gym.experiment.algorithms import ALGORITHMS, AlgorithmSpec, agent_type
    from tril_gym.experiment.config import RunConfig
    from tril_gym.experiment.evaluation import Evaluation, evaluate
    from tril_gym.experiment.metrics import metrics_by_name
    from tril_gym.experiment.resolution import configure
    from tril_gym.experiment.training import Result, resume, train
    from tril_gym.utils.console import RunConsole
    from tril_gym.utils.interrupt import Interrupted

__all__ = [
    "ALGORITHMS",
    "AlgorithmSpec",
    "Evaluation",
    "Interrupted",
    "Result",
    "RunConfig",
    "RunConsole",
    "agent_type",
    "configure",
    "evaluate",
    "metrics_by_name",
    "resume",
    "train",
]

_MODULES = {
    "tril_gym.experiment.algorithms": ("ALGORITHMS", "AlgorithmSpec", "agent_type"),
    "tril_gym.experiment.config": ("RunConfig",),
    "tril_gym.experiment.evaluation": ("Evaluation", "evaluate"),
    "tril_gym.experiment.metrics": ("metrics_by_name",),
    "tril_gym.experiment.resolution": ("configure",),
    "tril_gym.experiment.training": ("Result", "resume", "train"),
    "tril_gym.utils.console": ("RunConsole",),
    "tril_gym.utils.interrupt": ("Interrupted",),
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
