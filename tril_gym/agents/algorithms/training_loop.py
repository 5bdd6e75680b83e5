"""The training loop: plan, collect, update. Everything else is a callback.

The metrics of an iteration get the names here that trackers and run folders use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from gymnasium.vector import VectorEnv

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.baselines import baseline_rewards, subtract_baselines
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.learner import Learner, Metrics
from tril_gym.utils.profiler import Timer, memory_meter


class Trainable(Protocol):
    """What the loop needs of an agent."""

    policy: LMPolicy
    envs: VectorEnv
    layout: TextLayout
    learner: Learner
    generator: torch.Generator
    iteration: int  # completed iterations

    @property
    def episodes(self) -> int:
        """Texts per iteration."""

    def plan(self, iteration: int) -> Plan:
        """Return the plan of an iteration, counted from 0."""


@dataclass(frozen=True, slots=True)
class Report:
    """The results of one iteration."""

    iteration: int  # 1 after the first
    trajectories: Trajectories
    metrics: Metrics


Callback = Callable[[Report], None]
A = TypeVar("A", bound=Trainable)


def learn(agent: A, iterations: int, callback: Callback | None = None, *, profile: bool = False) -> A:
    """Collect, update and report, `iterations` times, and return the agent.

    After an exception within an iteration (Ctrl-C included) the agent is as the last complete update left it, except
    for the optimizer steps that the interrupted iteration had already taken.

    Args:
        agent: trained in place.
        iterations: iterations to run.
        callback: called with a `Report` after each iteration.
        profile: report the peak memory of each part, "memory/…" in MiB, beside its seconds.
    """
    for _ in range(iterations):
        timer = Timer(memory_meter(agent.policy.device) if profile else None)
        plan = agent.plan(agent.iteration)
        with timer.time("collect"):
            trajectories = collect(
                agent.envs,
                agent.learner.collection_plan(plan),
                episodes=agent.episodes,
                generator=agent.generator,
                timer=timer,
            )
        learned, baseline = _subtract_baselines(agent, trajectories, timer)
        metrics = agent.learner.update(learned, plan, generator=agent.generator, timer=timer)
        agent.iteration += 1
        if callback is not None:
            texts = text_metrics(trajectories, agent.layout) | rollin_metrics(trajectories, plan)
            metrics = {"iteration": agent.iteration} | texts | baseline | metrics
            callback(Report(agent.iteration, trajectories, metrics | time_metrics(timer, trajectories)))
    return agent


def _subtract_baselines(agent: Trainable, trajectories: Trajectories, timer: Timer) -> tuple[Trajectories, Metrics]:
    """Return the texts that the learner reads, their rewards less the baselines if it has any."""
    learner = agent.learner
    if learner.baseline == "none" or learner.ref_policy is None:
        return trajectories, {}
    with timer.time("collect"):
        baselines = baseline_rewards(
            agent.envs,
            trajectories,
            learner.ref_policy,
            baseline=learner.baseline,
            generator=agent.generator,
            timer=timer,
        )
    return subtract_baselines(trajectories, baselines), {"reward/baseline": float(baselines.mean())}


def text_metrics(trajectories: Trajectories, layout: TextLayout) -> Metrics:
    """Return the metrics of a batch of texts that need no model."""
    rewards = trajectories.rewards.sum(1)
    lengths = trajectories.lengths.double()
    metrics = {
        "episodes": len(trajectories),
        "tokens": int(lengths.sum()),
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std(correction=0)),
        "text/length": float(lengths.mean()),
        "text/ended": float(trajectories.ended_with(layout.eos_token_ids).double().mean()),
    }
    for name, scores in trajectories.scores.items():
        metrics[f"score/{name}"] = float(scores.nanmean())
    return metrics


def rollin_metrics(trajectories: Trajectories, plan: Plan) -> Metrics:
    """Return the metrics of rollins; none for a plan without them.

    If the policy writes the rollins, also the mean rewards of the texts that it wrote alone, that the guide wrote
    alone, and that the guide finished, each only if there are any.
    """
    if plan.rollin is None:
        return {}
    metrics = {"rollin/prob": plan.rollin_prob}
    has_rollin = trajectories.switch > 0
    if bool(has_rollin.any()):
        metrics["rollin/share"] = float(has_rollin.double().mean())
        metrics["rollin/length"] = float(trajectories.switch[has_rollin].double().mean())
    if plan.learn_on != "rollout":
        rewards, is_full = trajectories.rewards.sum(1), trajectories.switch == trajectories.lengths
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
