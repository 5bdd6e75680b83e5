"""The training loop: plan, collect, update. Everything else is a callback.

The metrics of an iteration get the names here that trackers and run folders use.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

from tril_gym.agents.algorithms.batches import Trainable
from tril_gym.agents.algorithms.callback import Callback, as_callbacks, call, started
from tril_gym.agents.algorithms.progress import ProgressCallback
from tril_gym.agents.algorithms.report import History, Report
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.learner import Metrics
from tril_gym.utils.interrupt import stop_signal
from tril_gym.utils.profiler import Timer, memory_meter


def learn(
    agent: Trainable,
    iterations: int,
    *,
    callbacks: Sequence[Callback | Callable[[Report], Any]] = (),
    progress: bool = True,
    profile: bool = False,
) -> History:
    """Collect texts and learn from them, `iterations` times, and return the metrics.

    Ctrl-C ends it after the iteration in progress, a second Ctrl-C at once; `agent.history` has the metrics so far.

    After an exception while texts are collected, the agent is as before the iteration: it can be saved or learn on as
    if nothing had happened. After one in the update it has taken some of its steps, and `is_whole` is False.

    Args:
        agent: trained in place.
        iterations: iterations to run.
        callbacks: functions `f(report)` and `Callback` objects, called in this order after each iteration.
        progress: show a bar and a table on a terminal or in a notebook; elsewhere print a line a minute.
        profile: report the peak memory of each part, "memory/…" in MiB, beside its seconds.

    Returns:
        A row of metrics for each iteration.

    Raises:
        NonFiniteError: the environment paid a reward, or the update met a loss or a gradient norm, that is not finite.
        TypeError: a callback is neither a function nor a `Callback`.
        ValueError: `iterations` is below 1.
    """
    count = _checked_iterations(iterations)
    called = as_callbacks(callbacks)
    agent.history = history = History()
    with stop_signal((signal.SIGINT,)) as asked:
        called = [*([ProgressCallback(is_stopping=asked)] if progress and agent.ranks.is_main else []), *called]
        with started(agent, called, count, history), _cancelled_by_errors(agent):
            for _ in range(count):
                history.stopped = _iterate(agent, called, history, profile=profile)
                if history.stopped is None and agent.ranks.any(asked()) and len(history) < count:
                    history.stopped = "interrupted"
                if history.stopped is not None:
                    break
    return history


@contextmanager
def _cancelled_by_errors(agent: Trainable) -> Iterator[None]:
    """Stop what is written beside the loop where an exception ends the block."""
    try:
        yield
    except BaseException:
        agent.batches.cancel()
        raise


def _checked_iterations(iterations: int) -> int:
    if isinstance(iterations, bool) or not isinstance(iterations, Integral):
        raise TypeError(f"iterations must be a whole number, got {iterations!r}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    return int(iterations)


def _iterate(agent: Trainable, callbacks: Sequence[Callback], history: History, *, profile: bool) -> str | None:
    """Run one iteration; return the reason where a callback stops the training. No trajectories are kept."""
    timer = Timer(memory_meter(agent.policy.device) if profile else None)
    with timer.time("collect"):
        measured = agent.prepare(timer)
    plan = agent.plan(agent.iteration)
    batch = agent.batches.next(agent, plan, timer)
    trajectories = batch.trajectories
    agent.is_whole = False
    metrics = agent.learner.update(batch.learned, plan, generator=agent.generator, timer=timer)
    agent.iteration += 1
    agent.is_whole = True
    agent.batches.settle(timer)
    plan.remember(trajectories)
    texts = text_metrics(trajectories, agent.layout) | rollin_metrics(trajectories, plan, agent.layout)
    texts |= given_metrics(trajectories) | measured
    metrics = {"iteration": agent.iteration} | texts | batch.metrics | metrics
    report = Report(agent.iteration, trajectories, metrics | time_metrics(timer, trajectories))
    history.append(report.metrics)
    return call(callbacks, report)


def text_metrics(trajectories: Trajectories, layout: TextLayout) -> Metrics:
    """Return the metrics of a batch of texts that need no model."""
    rewards = trajectories.total_rewards
    lengths = trajectories.lengths.double()
    metrics = {
        "episodes": len(trajectories),
        "tokens": int(lengths.sum()),
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std(correction=0)),
        "text/length": float(lengths.mean()),
        "text/ended": float(trajectories.ended_by_themselves(layout.eos_token_ids).double().mean()),
    }
    if trajectories.cut_mass is not None:
        metrics["policy/cut_mass"] = float(trajectories.cut_mass.sum() / trajectories.wrote.sum().clamp(min=1))
    for name, scores in trajectories.scores.items():
        metrics[f"score/{name}"] = float(scores.nanmean())
    return metrics


def given_metrics(trajectories: Trajectories) -> Metrics:
    """Return the mean rewards of the texts that others wrote, and of the policy's; none where it wrote all."""
    if trajectories.given is None:
        return {}
    given = trajectories.given
    rewards = trajectories.total_rewards
    return {
        "reward/given": float(rewards[given].mean()),
        "reward/policy_alone": float(trajectories.own.total_rewards.mean()),
    }


def rollin_metrics(trajectories: Trajectories, plan: Plan, layout: TextLayout) -> Metrics:
    """Return the metrics of rollins; none for a plan without them.

    If the policy writes the rollins, also the share of them that it ended itself, and the mean rewards of the texts
    that it wrote alone, that the guide wrote alone, and that the guide finished, each only if there are any.
    """
    if plan.rollin is None:
        return {}
    by_policy = int(trajectories.wrote.sum()) / max(1, int(trajectories.is_token.sum()))
    metrics: Metrics = {"rollin/prob": plan.rollin_prob}
    if plan.rollin is not plan.rollout:  # else both parts are the policy's, as in REFUEL
        metrics["guide/token_share"] = 1 - by_policy
    has_rollin = trajectories.switch > 0
    if bool(has_rollin.any()):
        metrics["rollin/share"] = float(has_rollin.double().mean())
        metrics["rollin/length"] = float(trajectories.switch[has_rollin].double().mean())
    if plan.learn_on != "rollout":
        rewards, is_full = trajectories.total_rewards, trajectories.switch == trajectories.lengths
        if bool(has_rollin.any()):
            ended = is_full & trajectories.ended_by_themselves(layout.eos_token_ids)
            metrics["rollin/ended"] = float(ended[has_rollin].double().mean())
        writers = {"policy_alone": is_full, "guide_alone": ~has_rollin, "guide_finished": has_rollin & ~is_full}
        metrics |= {f"reward/{name}": float(rewards[rows].mean()) for name, rows in writers.items() if rows.any()}
    return metrics


def time_metrics(timer: Timer, trajectories: Trajectories) -> Metrics:
    """Return the seconds of each part of an iteration, its peak memory if measured, and tokens per second overall."""
    seconds, total = dict(timer.seconds), timer.elapsed
    # The environment is stepped inside collection; each second is counted once.
    seconds["collect"] -= seconds.get("score", 0.0)
    seconds["other"] = max(0.0, total - sum(seconds.values()))
    metrics = {f"time/{name}": value for name, value in seconds.items()}
    metrics |= {f"memory/{name}": peak for name, peak in timer.peaks.items()}
    return metrics | {"tokens_per_second": float(trajectories.lengths.sum()) / total}
