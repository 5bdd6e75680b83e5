"""Phasic policy gradient: after some iterations the policy's body learns values, while its distributions stay.

In the policy phase, an actor-critic learns as always. In the auxiliary phase, over all texts of that phase, a value
head on the policy's body learns their returns, and a KL to the policy as it was before keeps it from changing. Old
distributions are computed again by a frozen copy, not stored: of one token they are V numbers.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories, minibatches
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig
from tril_gym.agents.learners.critic import Critic
from tril_gym.agents.learners.learner import Learner, Metrics
from tril_gym.agents.learners.nonfinite import StepGuard
from tril_gym.agents.learners.optimizer import adamw, set_learning_rate
from tril_gym.functional.divergences import divergence_loss
from tril_gym.functional.losses import value_loss
from tril_gym.models.texts import Texts
from tril_gym.utils.config_fields import MAX_COEFFICIENT, config_field
from tril_gym.utils.profiler import Timer
from tril_gym.utils.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class PhasicConfig(ActorCriticConfig):
    """The hyperparameters of the actor-critic update, and those of the auxiliary phase."""

    auxiliary_every: int = config_field(4, "Iterations of a policy phase, N_π", minimum=1)
    auxiliary_epochs: int = config_field(6, "Passes over the texts of a policy phase in the auxiliary phase", minimum=0)
    auxiliary_coef: float = config_field(
        1.0, "Weight of the value loss of the policy's body", minimum=0, maximum=MAX_COEFFICIENT
    )
    clone_coef: float = config_field(
        1.0, "Weight of the KL to the policy before the auxiliary phase", minimum=0, maximum=MAX_COEFFICIENT
    )
    epochs: int = config_field(1, "Passes over the texts of an iteration", minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.critic == "shared":
            raise ValueError(
                "critic must be separate or adapter, got shared: the auxiliary phase gives the policy's body a value"
                " head; use ppo for a shared critic"
            )


class Phasic(Learner):
    """An actor-critic with auxiliary phases.

    Args:
        policy: trained in place.
        config: hyperparameters.
        layout: sizes of the environment.
    """

    def __init__(self, policy: LMPolicy, config: PhasicConfig, layout: TextLayout) -> None:
        self.policy, self.config = policy, config
        self.actor_critic = ActorCritic(policy, config, layout)
        self.head = Critic(policy.language_model, is_shared=True)
        self.optimizer = adamw([*policy.parameters(), *self.head.parameters()], config)
        self.guard = StepGuard(config.skip_nonfinite)
        # Texts of the policy phase, with the returns of collection and where the critic learns them, (B, T).
        self.phase: list[tuple[Texts, Tensor, Tensor]] = []

    @property
    def ref_policy(self) -> LMPolicy:
        """The reference policy of the actor-critic."""
        return self.actor_critic.ref_policy

    @property
    def needs_references(self) -> bool:
        """Whether the loss has a term of references."""
        return self.actor_critic.needs_references

    def join(self, ranks: Ranks) -> None:
        """Learn from a share of the texts in each process; the auxiliary phase is computed on all in each."""
        self.actor_critic.join(ranks)

    def update(self, trajectories: Trajectories, plan: Plan, *, generator: torch.Generator, timer: Timer) -> Metrics:
        """Learn from the texts of one iteration, and in the last of a phase from all of it again."""
        metrics = self.actor_critic.update(trajectories, plan, generator=generator, timer=timer)
        found = self.actor_critic.experience
        assert found is not None, "the actor-critic has just learned from it"
        self.phase.append((found.texts, found.returns, found.learn_critic))
        if len(self.phase) < self.config.auxiliary_every:
            return metrics
        with timer.time("learn"):
            metrics |= self._auxiliary_phase(generator)
        self.phase.clear()
        return metrics

    def _auxiliary_phase(self, generator: torch.Generator) -> Metrics:
        """Train the policy's body and the critic on the returns of the phase; return the means of the losses."""
        before, means = self.policy.frozen_copy(), defaultdict[str, list[float]](list)
        parts = [list(part) for part in zip(*self.phase, strict=True)]
        texts, returns, learn = Texts.cat(parts[0]), torch.cat(parts[1]), torch.cat(parts[2])
        set_learning_rate(self.optimizer, self.actor_critic.optimizer.param_groups[0]["lr"])
        epochs, size = self.config.auxiliary_epochs, self.config.minibatch_size
        for rows in minibatches(len(texts), epochs=epochs, size=size, generator=generator):
            part = texts[rows].trimmed().to(self.policy.device)
            width = part.tokens.shape[1]
            targets, mask = (tensor[rows, :width].to(self.policy.device) for tensor in (returns, learn))
            for name, value in self._step(before, part, targets, mask).items():
                means[name].append(value)
        return {name: sum(values) / len(values) for name, values in means.items()}

    def _step(self, before: LMPolicy, texts: Texts, returns: Tensor, learn: Tensor) -> Metrics:
        """Take one step of the policy's body with its value head, and one of the critic."""
        critic, critic_optimizer = self.actor_critic.critic("policy")
        for parameter in (*self.policy.parameters(), *self.head.parameters(), *critic.parameters()):
            parameter.grad = None
        with torch.no_grad():
            old = before.language_model.token_logits(texts)
        hidden = self.policy.language_model.hidden(texts)
        own = self.policy.language_model.token_logits(texts, hidden)
        clone = divergence_loss(own, old, texts.is_token, form="forward")
        value = value_loss(self.head.of_hidden(hidden)[:, :-1], returns, returns, learn)
        true = value_loss(critic(texts)[:, :-1], returns, returns, learn)
        (self.config.auxiliary_coef * value + self.config.clone_coef * clone + true).backward()
        for network in ((*self.policy.parameters(), *self.head.parameters()), critic.parameters()):
            nn.utils.clip_grad_norm_(network, self.config.max_grad_norm)
        losses = {"auxiliary/loss": value, "auxiliary/kl": clone, "auxiliary/critic_loss": true}
        metrics = {name: float(loss.detach()) for name, loss in losses.items()}
        if self.guard.allows(metrics):
            # Without a value loss the KL's gradient is rounding, of which AdamW would make whole steps.
            if self.config.auxiliary_coef > 0:
                self.optimizer.step()
            critic_optimizer.step()
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the actor-critic, the value head, and the texts of the phase."""
        return {
            "actor_critic": self.actor_critic.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "guard": self.guard.state_dict(),
            "phase": [(asdict(texts), returns, learn) for texts, returns, learn in self.phase],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.actor_critic.load_state_dict(state["actor_critic"])
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.guard.load_state_dict(state["guard"])
        self.phase = [
            (Texts(**texts).to("cpu"), returns.cpu(), learn.cpu()) for texts, returns, learn in state["phase"]
        ]
