"""Runs: train agents in run folders with checkpoints and metrics, and evaluate policies.

The public names load on first use (PEP 562), so that importing a module of this package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tril_gym.utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from tril_gym.experiment.algorithms import ALGORITHMS as ALGORITHMS
    from tril_gym.experiment.algorithms import AlgorithmSpec as AlgorithmSpec
    from tril_gym.experiment.algorithms import agent_type as agent_type
    from tril_gym.experiment.callbacks import CheckpointCallback as CheckpointCallback
    from tril_gym.experiment.callbacks import EarlyStopping as EarlyStopping
    from tril_gym.experiment.callbacks import EvaluationCallback as EvaluationCallback
    from tril_gym.experiment.callbacks import TrackerCallback as TrackerCallback
    from tril_gym.experiment.config import RunConfig as RunConfig
    from tril_gym.experiment.evaluation import Evaluation as Evaluation
    from tril_gym.experiment.evaluation import evaluate as evaluate
    from tril_gym.experiment.exports import export_policy as export_policy
    from tril_gym.experiment.metrics import metrics_by_name as metrics_by_name
    from tril_gym.experiment.resolution import configure as configure
    from tril_gym.experiment.run import Result as Result
    from tril_gym.experiment.text_quality import training_words as training_words
    from tril_gym.experiment.tracking import Tracker as Tracker
    from tril_gym.experiment.tracking import TrackerOptions as TrackerOptions
    from tril_gym.experiment.training import resume as resume
    from tril_gym.experiment.training import train as train
    from tril_gym.utils.console import RunConsole as RunConsole
    from tril_gym.utils.interrupt import Interrupted as Interrupted

_MODULES = {
    "ALGORITHMS": "tril_gym.experiment.algorithms",
    "AlgorithmSpec": "tril_gym.experiment.algorithms",
    "CheckpointCallback": "tril_gym.experiment.callbacks",
    "EarlyStopping": "tril_gym.experiment.callbacks",
    "Evaluation": "tril_gym.experiment.evaluation",
    "EvaluationCallback": "tril_gym.experiment.callbacks",
    "Interrupted": "tril_gym.utils.interrupt",
    "Result": "tril_gym.experiment.run",
    "RunConfig": "tril_gym.experiment.config",
    "RunConsole": "tril_gym.utils.console",
    "Tracker": "tril_gym.experiment.tracking",
    "TrackerCallback": "tril_gym.experiment.callbacks",
    "TrackerOptions": "tril_gym.experiment.tracking",
    "agent_type": "tril_gym.experiment.algorithms",
    "configure": "tril_gym.experiment.resolution",
    "evaluate": "tril_gym.experiment.evaluation",
    "export_policy": "tril_gym.experiment.exports",
    "metrics_by_name": "tril_gym.experiment.metrics",
    "resume": "tril_gym.experiment.training",
    "train": "tril_gym.experiment.training",
    "training_words": "tril_gym.experiment.text_quality",
}
__all__ = [*_MODULES]
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
