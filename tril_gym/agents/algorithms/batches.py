"""Batches: the texts of an iteration, and what a learner reads of them.

`CollectNow` writes a batch when the loop asks for it. `CollectAhead` writes it while the one before is learned from.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.baselines import baseline_rewards, subtract_baselines, values_by_rollouts
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.learner import Learner, Metrics
from tril_gym.agents.learners.nonfinite import NonFiniteError
from tril_gym.functional.sampling import Decoding
from tril_gym.utils.config_fields import describe_type
from tril_gym.utils.profiler import Timer
from tril_gym.utils.ranks import Ranks


@dataclass(frozen=True)
class Batch:
    """The texts of an iteration."""

    trajectories: Trajectories  # as they were written and rewarded
    learned: Trajectories  # the same, as the learner reads them: rewards less baselines, values by rollouts
    metrics: Metrics  # of the actors, and of the baselines

    def state_dict(self) -> dict[str, Any]:
        """Return the batch as tensors and plain data."""
        found = {field.name: getattr(self.trajectories, field.name) for field in fields(Trajectories)}
        learned = {"rewards": self.learned.rewards, "values": self.learned.values}
        return {"trajectories": found, "learned": learned, "metrics": dict(self.metrics)}

    @staticmethod
    def of_state(state: dict[str, Any]) -> Batch:
        """Return the batch that `state_dict` returned."""
        trajectories = Trajectories(**_on_cpu(state["trajectories"]))
        return Batch(trajectories, replace(trajectories, **_on_cpu(state["learned"])), state["metrics"])

    def with_plain_infos(self) -> Batch:
        """Return the same batch, whose infos are plain data, so that a checkpoint can hold it.

        Raises:
            ValueError: an info has something else.
        """
        infos: Any = _plain(self.trajectories.infos, "infos")
        return replace(
            self, trajectories=replace(self.trajectories, infos=infos), learned=replace(self.learned, infos=infos)
        )


class BatchSource(Protocol):
    """Has the batch of each iteration."""

    @property
    def snapshot(self) -> LMPolicy | None:
        """The copy of the policy that writes in its place; None: the policy itself does."""

    def next(self, agent: Trainable, plan: Plan, timer: Timer) -> Batch:
        """Return the batch of the agent's iteration, which its plan describes.

        Where it raises, another call returns the batch that this one would have returned.
        """

    def settle(self, timer: Timer) -> None:
        """Wait until nothing is written any more."""

    def cancel(self) -> None:
        """Stop what is being written; it is begun anew by the next call of `next`."""

    def state_dict(self) -> dict[str, Any]:
        """Return what must be saved to continue as if never stopped; nothing where the agent's generator is enough."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class Trainable(Protocol):
    """What the training loop needs of an agent."""

    name: ClassVar[str]
    policy: LMPolicy
    envs: VectorEnv
    layout: TextLayout
    learner: Learner
    ranks: Ranks
    generator: torch.Generator
    batches: BatchSource
    iteration: int  # completed iterations
    history: Any  # of the last `learn`
    is_whole: bool  # False in an update, and after one that an exception ended: some of its steps were taken

    @property
    def episodes(self) -> int:
        """Texts per iteration."""

    def plan(self, iteration: int) -> Plan:
        """Return the plan of an iteration, counted from 0."""

    def prepare(self, timer: Timer) -> Metrics:
        """Measure what the plan of the coming iteration depends on."""

    def collection_plan(self, plan: Plan) -> Plan:
        """Return the plan that its texts are collected by."""


class CollectNow:
    """Writes each batch when it is asked for."""

    snapshot = None

    def next(self, agent: Trainable, plan: Plan, timer: Timer) -> Batch:
        """Write a batch; where it raises, the agent's generator is as it was before."""
        state = agent.generator.get_state()
        try:
            return write_batch(agent, plan, agent.policy, generator=agent.generator, ranks=agent.ranks, timer=timer)
        except BaseException:
            agent.generator.set_state(state)
            raise

    def settle(self, timer: Timer) -> None:
        """Nothing is written beside the loop."""

    def cancel(self) -> None:
        """Nothing is written beside the loop."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is nothing to restore."""


def write_batch(
    agent: Trainable, plan: Plan, policy: LMPolicy, *, generator: torch.Generator, ranks: Ranks, timer: Timer
) -> Batch:
    """Write the texts of an iteration, and those that their baselines and values need.

    Args:
        agent: in whose environment they are written.
        plan: of the iteration.
        policy: the agent's, or a copy of it.
        generator: source of all randomness.
        ranks: the processes that write together.
        timer: counts the seconds of writing as "collect", those of the environment in them as "score".

    Raises:
        NonFiniteError: a text was paid NaN or infinity.
    """
    plan = agent.collection_plan(plan)
    with timer.time("collect"):
        trajectories = collect(agent.envs, plan, episodes=agent.episodes, generator=generator, timer=timer, ranks=ranks)
        metrics = ranks.sum(plan.metrics())
    check_rewards(trajectories)
    others = _OtherTexts(agent, policy, generator, ranks, timer)
    learned, baseline = others.subtract_baselines(trajectories)
    return Batch(trajectories, others.with_rollout_values(learned), metrics | baseline)


def check_rewards(trajectories: Trajectories) -> None:
    """Raise `NonFiniteError` where a text was paid NaN or infinity."""
    is_finite = trajectories.rewards.isfinite().all(1)
    if not is_finite.all():
        row = int((~is_finite).nonzero()[0])
        example, paid = int(trajectories.examples[row]), float(trajectories.rewards[row].sum())
        raise NonFiniteError(f"the environment paid {paid} for text {row} (example {example}); rewards must be finite")


@dataclass(frozen=True)
class _OtherTexts:
    """Writes the other texts of an iteration, which say what its own are worth."""

    agent: Trainable
    policy: LMPolicy
    generator: torch.Generator
    ranks: Ranks
    timer: Timer

    def subtract_baselines(self, trajectories: Trajectories) -> tuple[Trajectories, Metrics]:
        """Return the texts that the learner reads, their rewards less the baselines if it has any.

        Raises:
            ValueError: the reference policy should write the baselines' texts, and the learner has none.
        """
        learner, others = self.agent.learner, self.agent.learner.baseline_texts
        if others.baseline == "none":
            return trajectories, {}
        is_greedy = others.baseline == "greedy"
        actor = self.policy.with_decoding(Decoding(greedy=True)) if is_greedy else learner.ref_policy
        if actor is None:
            raise ValueError(
                f"the reference policy writes the texts of the baseline {others.baseline!r}, and the ref_policy of"
                f" {type(learner).__name__} is None; return one, or use the baseline 'greedy'"
            )
        with self.timer.time("collect"):
            baselines = learner.baseline_values(
                trajectories.examples,
                lambda rows: baseline_rewards(
                    self.agent.envs,
                    trajectories[rows],
                    actor,
                    baseline=others.baseline,
                    generator=self.generator,
                    texts=others.texts,
                    timer=self.timer,
                    ranks=self.ranks,
                ),
            )
        learned = subtract_baselines(trajectories, baselines, bootstraps=learner.bootstraps)
        return learned, {"reward/baseline": float(baselines.mean())}

    def with_rollout_values(self, trajectories: Trajectories) -> Trajectories:
        """Return the texts with the values that the policy's rollouts estimate, if the learner reads them."""
        texts, every = self.agent.learner.rollout_values
        if not texts:
            return trajectories
        with self.timer.time("collect"):
            values = values_by_rollouts(
                self.agent.envs,
                trajectories,
                self.policy,
                texts=texts,
                every=every,
                generator=self.generator,
                timer=self.timer,
                ranks=self.ranks,
            )
        return replace(trajectories, values=values)


def _on_cpu(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in values.items()}


def _plain(value: Any, name: str) -> Any:
    """Return infos as dictionaries, lists, strings, numbers and tensors, whose files can be read without code."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(part, str(key)) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [_plain(part, name) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    if value is None or type(value) in (bool, int, float, str, Tensor):
        return value
    raise ValueError(
        f"the info of a text has {name!r}: {describe_type(value)}, which a checkpoint with texts in flight cannot hold;"
        " drop it with WithoutInfo(envs, keep=…), or leave overlap out"
    )
