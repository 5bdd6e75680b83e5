"""Callbacks for `Agent.learn`: evaluations on held-out environments, checkpoints, early stopping, and trackers."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.algorithms.callback import Callback, StopTraining
from tril_gym.agents.algorithms.report import History, Report
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.experiment.best import is_better, read_best, save_best
from tril_gym.experiment.checkpoints import Checkpoints, number_of
from tril_gym.experiment.evaluation import evaluate, flat_metrics
from tril_gym.experiment.run_folder import KEPT
from tril_gym.experiment.tracking import SAMPLES, Tracker, is_sampled, texts_apart
from tril_gym.utils.config_fields import check_integer
from tril_gym.utils.suggestions import suggestion

log = logging.getLogger(__name__)

Mode = Literal["max", "min"]


class EvaluationCallback(Callback):
    """Evaluate the policy on held-out examples before the training and every few iterations, and keep the best one.

    The metrics are added to those of the iteration, as "held_out/greedy/reward/mean" and so on. Evaluations have their
    own environment and generator, so that they do not change the training.

    Args:
        envs: a vector environment of held-out examples, another one than the agent's.
        every: iterations between evaluations.
        examples: number of examples, a random sample; None for all.
        seed: random seed for sampling.
        metric: the best policy has the highest of this metric of `evaluate`, by way of decoding.
        keep_best: keep a copy of the best weights in memory, for `restore`.
        folder: also save the best policy there, `policy/` for `from_pretrained`, with its figures in `best.json`. An
            agent that was loaded replaces one that is there by a better one only.
        name: before the names of the metrics; of several evaluations, such as of other data, each needs its own.

    Attributes:
        best: "iteration", "metrics" and "reward" of the best policy so far; None before the first evaluation.
        rows: "iteration" and "metrics" of each evaluation.
    """

    def __init__(
        self,
        envs: VectorEnv,
        *,
        every: int = 10,
        examples: int | None = None,
        seed: int = 0,
        metric: str = "greedy/reward/mean",
        keep_best: bool = True,
        folder: str | Path | None = None,
        name: str = "held_out",
    ) -> None:
        if not name or "/" in name:
            raise ValueError(f"name must be a word without a slash, such as held_out, got {name!r}")
        self.name = name
        self.envs, self.every, self.examples, self.seed = envs, check_integer("every", every, 1), examples, seed
        self.metric, self.keep_best, self.folder = metric, keep_best, None if folder is None else Path(folder)
        self.best: dict[str, Any] | None = None
        self.rows: list[dict[str, Any]] = []
        self._agent: Agent | None = None
        self._weights: list[Tensor] = []
        self._saved: dict[str, Any] | None = None  # what is in the folder of an earlier session

    def start(self, agent: Agent, iterations: int) -> None:
        """Evaluate the policy as it is, unless that is known; forget the evaluations of any earlier agent.

        Raises:
            ValueError: the environment is the one that the agent trains in.
        """
        if self.envs.unwrapped is agent.envs.unwrapped:
            raise ValueError("EvaluationCallback needs an environment of its own, not the one that the agent trains in")
        if agent is not self._agent:
            self.rows, self.best, self._weights = [], None, []
            self._saved = self._saved_best() if agent.iteration > 0 else None  # of a loaded agent
        self._agent = agent
        if not (self.rows and self.rows[-1]["iteration"] == agent.iteration):
            self._evaluate(agent)

    def iteration(self, report: Report) -> None:
        """Evaluate where it is due, and add the metrics to the report.

        Raises:
            ValueError: they have the names of others, such as those of another `EvaluationCallback`.
        """
        if report.iteration % self.every == 0 and self._agent is not None:
            found = {f"{self.name}/{name}": value for name, value in self._evaluate(self._agent).items()}
            if taken := found.keys() & report.metrics.keys():
                raise ValueError(
                    f"the iteration has a metric {min(taken)} already; give each EvaluationCallback a name of its own,"
                    ' such as name="test"'
                )
            report.metrics.update(found)

    def _saved_best(self) -> dict[str, Any] | None:
        """Return the figures of the best policy in the folder, if they are of this metric."""
        found = None if self.folder is None else read_best(self.folder)
        return found if found is not None and found["reward"] == found.get("metrics", {}).get(self.metric) else None

    def restore(self) -> None:
        """Give the agent's policy its best weights.

        The optimizer and the critic stay as they are, so this is for use of the policy, not to continue training.

        Raises:
            ValueError: no weights were kept.
        """
        if self._agent is None or not self._weights:
            raise ValueError("there is no best policy in memory: run learn first, with keep_best=True")
        with torch.no_grad():
            for parameter, best in zip(self._agent.policy.parameters(), self._weights, strict=True):
                parameter.copy_(best)

    def _evaluate(self, agent: Agent) -> dict[str, float]:
        """Evaluate the policy, keep it if it is the best so far, and return its metrics."""
        found = evaluate(
            agent.policy,
            self.envs,
            seed=self.seed,
            ref_policy=agent.learner.first_policy,
            count=self.examples,
            ranks=agent.ranks,
            check_model=agent.config.check_model,
        )
        metrics = flat_metrics(found.metrics)
        check_known(self.metric, metrics)
        row = {"iteration": agent.iteration, "metrics": metrics}
        self.rows.append(row)
        if is_better(metrics[self.metric], self.best):
            self.best = row | {"reward": metrics[self.metric]}
            self._keep(agent, self.best)
        return metrics

    def _keep(self, agent: Agent, figures: dict[str, Any]) -> None:
        if self.keep_best:
            self._weights = [parameter.detach().cpu().clone() for parameter in agent.policy.parameters()]
        if self.folder is not None and is_better(figures["reward"], self._saved):
            policy = agent.policy.with_language_model(agent.policy.language_model.whole_copy())
            if agent.ranks.is_main:
                save_best(self.folder, policy, figures)


class CheckpointCallback(Callback):
    """Save the agent every few iterations and at the end; see `Agent.load`.

    Args:
        folder: holds `iteration-000010/` and so on.
        every: iterations between checkpoints.
        keep: how many to keep, the last ones.
    """

    def __init__(self, folder: str | Path, *, every: int = 10, keep: int = KEPT) -> None:
        self.every, self.keep = check_integer("every", every, 1), check_integer("keep", keep, 1)
        self._checkpoints = Checkpoints(Path(folder), unit="iteration")
        self._agent: Agent | None = None
        self._saved: int | None = None  # iteration of the newest

    def start(self, agent: Agent, iterations: int) -> None:
        """Take note of the agent, and warn of checkpoints that another training has left."""
        self._agent, self._saved = agent, agent.iteration
        found = self._checkpoints.found()
        if found and number_of(found[-1]) > agent.iteration and agent.ranks.is_main:
            log.warning(
                "%s is of another training, or of a later iteration than %d, after which this one begins; it would be"
                " taken for the newest checkpoint later: delete it, or use another folder",
                found[-1],
                agent.iteration,
            )

    def iteration(self, report: Report) -> None:
        """Save the agent where it is due."""
        if report.iteration % self.every == 0:
            self._save()

    def end(self, history: History) -> None:
        """Save the agent, unless an exception ended an update or it is saved already."""
        if self._agent is not None and self._agent.is_whole and self._saved != self._agent.iteration:
            self._save()
        self._agent = None

    def newest(self) -> Path | None:
        """Return the newest checkpoint without damage, after a training that of its agent; None without any."""
        return self._checkpoints.newest_whole(last=self._saved)

    def _save(self) -> None:
        if self._agent is not None:
            if self._agent.ranks.is_main:
                self._checkpoints.save(self._agent.iteration, self._agent.save, keep=self.keep)
            else:
                self._agent.save(self._checkpoints.folder)
            self._saved = self._agent.iteration


class EarlyStopping(Callback):
    """Stop once a metric has not improved for a while.

    Args:
        metric: its name in `Report.metrics`. That of an evaluation needs an `EvaluationCallback` before this one; its
            value before training is not compared.
        patience: values of the metric in a row without an improvement.
        mode: whether a higher value is better, or a lower one.
        min_delta: a smaller change is no improvement.
    """

    def __init__(
        self,
        metric: str = "held_out/greedy/reward/mean",
        *,
        patience: int = 5,
        mode: Mode = "max",
        min_delta: float = 0.0,
    ) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"mode must be 'max' or 'min', got {mode!r}")
        if not min_delta >= 0:
            raise ValueError(f"min_delta must be at least 0, got {min_delta}")
        self.metric, self.patience = metric, check_integer("patience", patience, 1)
        self.mode, self.min_delta = mode, min_delta
        self.best, self._since = -math.inf, 0  # of the metric times the sign
        self._is_known = False  # whether an iteration had the metric

    def start(self, agent: Agent, iterations: int) -> None:
        """Forget the values of an earlier training."""
        self.best, self._since = -math.inf, 0
        self._is_known = False

    def iteration(self, report: Report) -> StopTraining | None:
        """Compare the metric with its best.

        Raises:
            ValueError: there is no such metric.
        """
        if self.metric not in report.metrics:
            evaluation, way, _ = [*self.metric.split("/", 2), "", ""][:3]
            is_due = any(name.startswith(f"{evaluation}/") for name in report.metrics)
            if way not in ("greedy", "sampled") or is_due:  # evaluations are not in every iteration
                check_known(self.metric, report.metrics)
            return None
        self._is_known = True
        value = report.metrics[self.metric] * (1 if self.mode == "max" else -1)
        if value > self.best + self.min_delta:
            self.best, self._since = value, 0
            return None
        self._since += 1
        if self._since < self.patience:
            return None
        best = self.best if self.mode == "max" else -self.best
        return StopTraining(f"{self.metric} has not improved on {best:.4g} for {self.patience} values")

    def end(self, history: History) -> None:
        """Warn where the metric never appeared."""
        if history and not self._is_known:
            log.warning("EarlyStopping: no iteration had %s; put an EvaluationCallback before it", self.metric)


@runtime_checkable
class Logs(Protocol):
    """A tracker such as a run of wandb, or the module trackio."""

    def log(self, metrics: dict[str, Any], step: int) -> Any:
        """Record the metrics of a step."""


@runtime_checkable
class AddsScalars(Protocol):
    """A tracker such as tensorboard's `SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """Record a metric of a step."""


class TrackerCallback(Callback):
    """Send the metrics of each iteration to a tracker; the step is the iteration.

    Put it after an `EvaluationCallback`, whose metrics are then sent, too. The tracker is yours: begin and end its run.
    A `Tracker` also gets three texts of the first and of every tenth iteration, with rollin and rollout apart.

    Args:
        tracker: an object with `log(metrics, step=…)`, such as a run of wandb; tensorboard's `SummaryWriter`; or a
            function `f(metrics, step)`.
    """

    def __init__(self, tracker: Logs | AddsScalars | Callable[[dict[str, float], int], Any]) -> None:
        if not isinstance(tracker, Logs | AddsScalars) and not callable(tracker):
            raise TypeError(
                f"a tracker has log(metrics, step=...) or add_scalar(name, value, step), or is a function"
                f" f(metrics, step), got {tracker!r}"
            )
        self.tracker = tracker
        self._layout: TextLayout | None = None
        self._is_main = True

    def start(self, agent: Any, iterations: int) -> None:
        """Begin a training."""
        self._layout, self._is_main = agent.layout, agent.ranks.is_main

    def iteration(self, report: Report) -> None:
        """Send the metrics of an iteration, in the main process."""
        if not self._is_main:
            return
        if isinstance(self.tracker, Tracker) and self._layout is not None and is_sampled(report.iteration):
            self.tracker.log_texts(texts_apart(report.trajectories, self._layout, SAMPLES), report.iteration)
        if isinstance(self.tracker, Logs):
            self.tracker.log(report.metrics, step=report.iteration)
        elif isinstance(self.tracker, AddsScalars):
            for name, value in report.metrics.items():
                self.tracker.add_scalar(name, value, report.iteration)
        else:
            self.tracker(report.metrics, report.iteration)


def check_known(name: str, metrics: Mapping[str, float]) -> None:
    """Raise `ValueError` for a metric that there is not."""
    if name not in metrics:
        raise ValueError(f"no metric {name!r}{suggestion(name, metrics)}; there are {', '.join(metrics)}")
