"""Collection ahead: the next batch is written in a thread while the learner updates the policy from this one.

An iteration takes as long as the longer of both. The texts are those of a snapshot, a copy of the policy as it was
before the update, so they are one update older than without; the learner weights them, see `functional.importance`.
They are also scored by the snapshot, a minibatch of them, to compare sampling with scoring.

The numbers do not depend on when the thread runs: it has a copy of the weights, a generator of its own, which the
agent's seeds, the environment, and between processes a channel of its own. No weights are gathered in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.algorithms.batches import Batch, Trainable, write_batch
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.learner import Learner
from tril_gym.agents.learners.optimizer import OptimizerConfig, autocast_of
from tril_gym.utils.background import Background
from tril_gym.utils.profiler import Timer
from tril_gym.utils.ranks import Ranks

CANCEL_SECONDS = 1.0  # that a stop waits for the thread, which may be inside a reward


class Cancelled(Exception):  # noqa: N818  (not an error)
    """The batch is no longer needed."""


class _StoppableTimer(Timer):
    """Ends the writing of texts at its next step, once it is stopped."""

    is_stopped = False

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the time of the block to `name`, unless it is stopped."""
        if self.is_stopped:
            raise Cancelled
        with super().time(name):
            yield


class _Order:
    """A batch that was asked for.

    Args:
        iteration: of the batch, counted from 0.
        seed: of its randomness.
        batch: if it is written.
    """

    def __init__(self, iteration: int, seed: int, batch: Batch | None = None) -> None:
        self.iteration, self.seed, self.batch = iteration, seed, batch
        self.work: Background[Batch] | None = None  # the newest attempt to write it
        self._timer = _StoppableTimer()

    def begin(self, write: Callable[[int, Timer], Batch]) -> None:
        """Write the batch in a thread, from the seed, unless it is written or being written."""
        if self._timer.is_stopped:
            self.wait()
            self.work = self.work if self.is_written else None
        if self.batch is None and self.work is None:
            timer = self._timer = _StoppableTimer()
            self.work = Background(lambda: write(self.seed, timer), "the next batch")

    @property
    def is_written(self) -> bool:
        """Whether the batch is there."""
        return self.batch is not None or (self.work is not None and self.work.wait(0) and self.work.error is None)

    def result(self) -> Batch:
        """Wait for the batch, and raise what its writing raised."""
        if self.batch is None:
            assert self.work is not None, "begin it first"
            try:
                self.batch = self.work.result()
            finally:
                if self.work.wait(0):  # else an interrupt ended the waiting
                    self.work = None
        return self.batch

    def wait(self, seconds: float | None = None) -> None:
        """Wait until nothing is written."""
        if self.work is not None:
            self.work.wait(seconds)

    def cancel(self) -> None:
        """Let the thread end at its next step, and wait a moment for it."""
        self._timer.is_stopped = True
        self.wait(CANCEL_SECONDS)


class CollectAhead:
    """Writes each batch while the one before it is learned from.

    Args:
        policy: is copied before each batch.
        learner: of the agent.
        config: hyperparameters.
        layout: sizes of the environment.
        ranks: the processes that train together.

    Raises:
        ValueError: the learner needs texts of a policy that the processes share, and only the main thread gathers it;
            or models are never whole.
    """

    def __init__(
        self, policy: LMPolicy, learner: Learner, config: OptimizerConfig, layout: TextLayout, ranks: Ranks
    ) -> None:
        baseline = learner.baseline_texts.baseline
        if ranks.shards and baseline != "none":
            raise ValueError(
                f"overlap writes texts in a thread, which cannot gather the shards of the reference policy for the"
                f" baseline {baseline!r}; leave the baseline, the shards or overlap out"
            )
        if ranks.writes_by_block:
            raise ValueError(
                "overlap writes with a snapshot that is whole in each process, and --sharded-writing block is for"
                " models that do not fit whole; leave one of them out"
            )
        self.snapshot = policy.frozen_copy()
        self.ranks = ranks.for_thread()
        self.layout, self.checked_texts = layout, config.minibatch_size
        self.autocast = autocast_of(config, policy.device)
        self._order: _Order | None = None  # of the batch that is written ahead

    def next(self, agent: Trainable, plan: Plan, timer: Timer) -> Batch:
        """Return the batch that was written ahead, and begin the next one.

        One that failed is written again, by the same weights and from the same seed.
        """
        if self._order is None or self._order.iteration != agent.iteration:
            self._order = self._ask(agent, agent.iteration)
        with timer.time("collect"):
            self._order.begin(partial(self._write, agent, plan))
            batch = self._order.result()
        self._order = self._ask(agent, agent.iteration + 1)
        self._order.begin(partial(self._write, agent, agent.plan(agent.iteration + 1)))
        return batch

    def _ask(self, agent: Trainable, iteration: int) -> _Order:
        """Copy the policy's weights and draw the seed of a batch."""
        if self._order is not None:
            self._order.wait()
        self.snapshot.language_model.load_state_dict(agent.policy.language_model.state_dict())
        return _Order(iteration, int(torch.randint(2**62, (), generator=agent.generator)))

    def _write(self, agent: Trainable, plan: Plan, seed: int, timer: Timer) -> Batch:
        """Write a batch, in the thread."""
        generator = torch.Generator().manual_seed(seed)
        with _chosen(self.snapshot.device):
            batch = write_batch(agent, plan, self.snapshot, generator=generator, ranks=self.ranks, timer=timer)
            batch = batch.with_plain_infos()
            scored = self._scored(batch.trajectories)
        seconds = dict(timer.seconds)
        metrics = {
            "overlap/collect_seconds": seconds["collect"] - seconds.get("score", 0.0),
            "overlap/score_seconds": seconds.get("score", 0.0),
        }
        return Batch(
            replace(batch.trajectories, writer_logprobs=scored),
            replace(batch.learned, writer_logprobs=scored),
            batch.metrics | metrics,
        )

    @torch.no_grad()
    def _scored(self, trajectories: Trajectories) -> Tensor:
        """Return log-probabilities of the first texts under the snapshot, as training scores them, (B, T); else NaN."""
        texts, count = trajectories.texts, min(self.checked_texts, len(trajectories))
        scored = torch.full_like(trajectories.old_logprobs, torch.nan)

        def score(rows: Tensor) -> Tensor:
            return self.snapshot.token_logprobs(texts[rows], self.layout).logprobs

        with self.autocast():
            scored[:count] = self.ranks.compute_rows(score, count, chunk=count).double()
        return scored

    def settle(self, timer: Timer) -> None:
        """Wait until the batch is written, so that nothing else uses the environment, and keep it.

        An exception is raised where the batch is asked for, as if it were written then. Of several processes one that
        failed ends at once: the others wait for it.
        """
        if self._order is not None:
            with timer.time("collect"):
                self._order.wait()
            if self.ranks.size > 1:
                self._order.result()

    def cancel(self) -> None:
        """Stop what is being written; see `BatchSource`."""
        if self._order is not None:
            self._order.cancel()

    def state_dict(self) -> dict[str, Any]:
        """Return the batch that is written ahead; where it has failed, the weights that write it again."""
        order = self._order
        if order is None:
            return {}
        order.wait()
        found: dict[str, Any] = {"iteration": order.iteration, "seed": order.seed}
        if order.is_written:
            return found | {"batch": order.result().state_dict()}
        return found | {"snapshot": self.snapshot.language_model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        batch = Batch.of_state(state["batch"]) if "batch" in state else None
        self._order = _Order(state["iteration"], state["seed"], batch)
        if batch is None:
            self.snapshot.language_model.load_state_dict(state["snapshot"])


def _chosen(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which a GPU is the current one: each thread has its own."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
