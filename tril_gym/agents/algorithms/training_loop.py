"""The loop: plan, collect, update. Everything else is a callback.

What an iteration reports is made here, under the names that every tracker and the run folder use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tril_gym.agents.collection.collector import collect
from tril_gym.agents.collection.plan import RecordsDuringCollection
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.utils.profiler import Timer, memory_meter

if TYPE_CHECKING:
    from tril_gym.agents.algorithms.agent import Agent


@dataclass(frozen=True, slots=True)
class Report:
    """What one iteration did."""

    iteration: int  # 1 after the first
    trajectories: Trajectories
    metrics: dict[str, float]


Callback = Callable[[Report], None]


def learn(agent: Agent, *, iterations: int, after: Callback | None = None, profile: bool = False) -> None:
    """Collect, learn, report, so many times; with `profile` the report has the peak of memory of each part, too.

    An exception in the middle of an iteration (Ctrl-C too) leaves the agent as the last complete update left it, but
    for the optimizer steps that the broken iteration had already made.
    """
    for _ in range(iterations):
        timer = Timer(memory_meter(agent.policy.device) if profile else None)
        plan = agent.plan(agent.iteration)
        writing = agent.learner.writing(plan) if isinstance(agent.learner, RecordsDuringCollection) else plan
        with timer.time("collect"):
            trajectories = collect(agent.envs, writing, episodes=agent.episodes, generator=agent.generator, timer=timer)
        metrics = agent.learner.update(trajectories, plan, generator=agent.generator, timer=timer)
        agent.iteration += 1
        if after is not None:
            figures = {"iteration": agent.iteration} | describe(trajectories) | metrics | times(timer, trajectories)
            after(Report(agent.iteration, trajectories, figures))


def describe(trajectories: Trajectories) -> dict[str, float]:
    """The figures of a batch of texts that need no model."""
    paid = trajectories.rewards.sum(1)
    lengths = trajectories.lengths.double()
    has_rollin = trajectories.switch > 0
    figures = {
        "episodes": len(trajectories),
        "tokens": int(lengths.sum()),
        "reward/mean": float(paid.mean()),
        "reward/std": float(paid.std(correction=0)),
        "text/length": float(lengths.mean()),
    }
    for name, scores in trajectories.scores.items():
        figures[f"score/{name}"] = float(scores.nanmean())
    if bool(has_rollin.any()):
        figures["rollin/share"] = float(has_rollin.double().mean())
        figures["rollin/length"] = float(trajectories.switch[has_rollin].double().mean())
    return figures


def times(timer: Timer, trajectories: Trajectories) -> dict[str, float]:
    """Seconds an iteration's parts took, and the tokens written in each second of the whole."""
    seconds, total = dict(timer.seconds), timer.elapsed
    # The environment is stepped inside collection; each second is counted once.
    seconds["collect"] -= seconds.get("score", 0.0)
    seconds["other"] = max(0.0, total - sum(seconds.values()))
    figures = {f"time/{name}": value for name, value in seconds.items()}
    figures |= {f"memory/{name}": peak for name, peak in timer.peaks.items()}
    return figures | {"tokens_per_second": float(trajectories.lengths.sum()) / total}
