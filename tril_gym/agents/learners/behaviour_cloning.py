"""BehaviourCloning: a policy becomes more likely to write given texts.

Token-mean negative log-likelihood of what stands after a prompt; prompt and padding are not learned, EOS is. Under the
model's own softmax: no temperature, no minimum length.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories, minibatches
from tril_gym.agents.learners.optimizer import (
    Metrics,
    OptimizerConfig,
    Schedule,
    adamw,
    autocast_of,
    checkpoint_gradients,
    clip_gradients,
)
from tril_gym.functional.losses import nll_loss
from tril_gym.models.texts import Texts
from tril_gym.utils.profiler import Timer


class BehaviourCloning:
    """Makes a policy write like the texts of an iteration, whoever wrote them."""

    ref_policy = None
    needs_references = True

    def __init__(self, policy: LMPolicy, config: OptimizerConfig, layout: TextLayout | None = None) -> None:
        self.policy, self.config = policy, config
        self.optimizer, self.schedule = adamw(policy.parameters(), config), Schedule(config)
        self.autocast = autocast_of(config, policy.device)
        if config.gradient_checkpointing:
            checkpoint_gradients(policy.model)

    def update(self, trajectories: Trajectories, plan: Plan, *, generator: torch.Generator, timer: Timer) -> Metrics:
        """Learn an iteration's texts."""
        texts, config = trajectories.texts, self.config
        self.schedule.apply(self.optimizer, config.learning_rate)
        with timer.time("learn"):
            parts = minibatches(len(texts), epochs=config.epochs, size=config.minibatch_size, generator=generator)
            steps = [self.step(texts[rows]) for rows in parts]
        self.schedule.advance()
        return {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}

    def step(self, texts: Texts) -> Metrics:
        """One optimizer step on a minibatch."""
        nats = 0.0
        self.optimizer.zero_grad()
        for rows in torch.arange(len(texts)).tensor_split(min(self.config.gradient_accumulation, len(texts))):
            with self.autocast():
                loss = self.loss(texts[rows].trimmed().to(self.policy.device), count=int(texts.lengths.sum()))
            loss.backward()
            nats += float(loss.detach())
        norm = clip_gradients(self.policy.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        return {"policy/loss": nats, "grad_norm/policy": norm}

    def loss(self, texts: Texts, *, count: int | None = None) -> Tensor:
        """Nats per token, a scalar; of `count` tokens, where these texts are a part of more."""
        return nll_loss(self.policy.plain_logprobs(texts), texts.is_token, count=count)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's."""
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
