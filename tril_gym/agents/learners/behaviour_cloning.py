"""Behaviour cloning: maximum likelihood of given texts.

The loss is the token-mean negative log-likelihood of what follows a prompt: prompt and padding are excluded, EOS is
learned. It uses the model's own softmax, without temperature or minimum length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories, minibatches
from tril_gym.agents.learners.learner import Learner, Metrics, mean_metrics
from tril_gym.agents.learners.nonfinite import StepGuard
from tril_gym.agents.learners.optimizer import (
    OptimizerConfig,
    adamw,
    autocast_of,
    clip_gradients,
    load_optimizer_state,
    optimizer_state,
    set_learning_rate,
)
from tril_gym.functional.losses import nll_loss
from tril_gym.models.noise import checkpoint_gradients
from tril_gym.models.texts import Texts
from tril_gym.utils.profiler import Timer
from tril_gym.utils.ranks import ALONE, Ranks


class BehaviourCloning(Learner):
    """Trains a policy to write like the texts of an iteration, whoever wrote them."""

    needs_references = True
    needs_rewards = False

    def __init__(self, policy: LMPolicy, config: OptimizerConfig, layout: TextLayout | None = None) -> None:
        self.policy, self.config = policy, config
        self.optimizer, self.iteration = adamw(policy.parameters(), config), 0
        self.autocast, self.guard = autocast_of(config, policy.device), StepGuard(config.skip_nonfinite)
        self.ranks = ALONE
        # The loss per token of texts, their labels and the tokens to divide by; by default the negative log-likelihood.
        self.text_loss: Callable[[Texts, Tensor | None, int | None], Tensor] = self._likelihood
        if config.gradient_checkpointing:
            checkpoint_gradients(policy.model)

    def join(self, ranks: Ranks) -> None:
        """Learn from a share of the texts in each process."""
        self.ranks = ranks
        if ranks.shards:
            self.policy.language_model.shard(block_by_block=ranks if ranks.writes_by_block else None)
        self.optimizer = adamw(self.policy.parameters(), self.config, ranks=ranks)

    def update(self, trajectories: Trajectories, plan: Plan, *, generator: torch.Generator, timer: Timer) -> Metrics:
        """Learn from the texts of one iteration."""
        return self.learn(trajectories.texts, None, generator=generator, timer=timer)

    def learn(self, texts: Texts, labels: Tensor | None, *, generator: torch.Generator, timer: Timer) -> Metrics:
        """Learn for an iteration from texts, or in their states from other tokens, labels (B, T)."""
        config = self.config
        set_learning_rate(self.optimizer, config.learning_rate * config.learning_rate_factor(self.iteration))
        with timer.time("learn"):
            parts = minibatches(len(texts), epochs=config.epochs, size=config.minibatch_size, generator=generator)
            steps = [metrics for rows in parts if (metrics := self.step(texts[rows], _of_rows(labels, rows)))]
        self.iteration += 1
        return mean_metrics(steps) | self.guard.skipped_since_last()

    def step(self, texts: Texts, labels: Tensor | None = None) -> Metrics:
        """Take one optimizer step on a minibatch and return its metrics; none where the step was skipped.

        Args:
            texts: the minibatch.
            labels: (B, T) tokens to learn in place of the texts' own.

        Raises:
            NonFiniteError: the loss or the gradient norm is not finite, and no further step may be skipped.
        """
        nats, share = 0.0, torch.arange(len(texts))[self.ranks.share(len(texts))]
        self.optimizer.zero_grad()
        for rows in share.tensor_split(min(self.config.gradient_accumulation, self.ranks.largest_share(len(texts)))):
            read = rows if len(rows) else torch.tensor([0])  # a process takes part in every gradient
            part = texts[read] if len(rows) else texts[read].without_tokens()
            with self.autocast():
                learned, count = part.trimmed().to(self.policy.device), int(texts.lengths.sum())
                loss = self.text_loss(learned, _of_rows(labels, read), count)
            loss.backward()
            nats += float(loss.detach())
        self.ranks.sum_gradients(self.policy.parameters())
        norm = clip_gradients(self.policy.parameters(), self.config.max_grad_norm)
        metrics = self.ranks.sum({"policy/loss": nats}) | {"grad_norm/policy": norm}
        if not self.guard.allows(metrics):
            return {}
        self.optimizer.step()
        return metrics

    def _likelihood(self, texts: Texts, labels: Tensor | None, count: int | None) -> Tensor:
        return nll_loss(self.policy.plain_logprobs(texts), texts.is_token, count=count)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer and its schedule."""
        return {
            "optimizer": optimizer_state(self.optimizer),
            "schedule": {"iteration": self.iteration},
            "guard": self.guard.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.iteration = state["schedule"]["iteration"]
        self.guard.load_state_dict(state["guard"])


def _of_rows(labels: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if labels is None else labels[rows]
