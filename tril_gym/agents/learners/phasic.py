"""Phasic policy gradient: after some iterations the policy's body learns values, while its distributions stay.

In the policy phase, an actor-critic learns as always. In the auxiliary phase, over all texts of that phase, a value
head on the policy's body learns their returns, and a KL to the policy as it was before keeps it from changing. Old
distributions are computed again by a frozen copy, not stored: of one token they are V numbers.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.baselines import BaselineTexts
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories, minibatches
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig
from tril_gym.agents.learners.critic import Critic
from tril_gym.agents.learners.experience import Experience
from tril_gym.agents.learners.learner import Learner, Metrics, mean_metrics
from tril_gym.agents.learners.nonfinite import StepGuard
from tril_gym.agents.learners.optimizer import (
    adamw,
    clip_gradients,
    load_optimizer_state,
    optimizer_state,
    set_learning_rate,
)
from tril_gym.functional.divergences import divergence_loss
from tril_gym.functional.losses import value_loss
from tril_gym.models.sharding import shard_module
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
        self.policy, self.config, self.layout = policy, config, layout
        self.actor_critic = ActorCritic(policy, config, layout)
        self.head = Critic(policy.language_model, is_shared=True)
        self.optimizer = adamw(self.parameters(), config)
        self.guard = StepGuard(config.skip_nonfinite)
        self.phase: list[Experience] = []  # of the iterations of the policy phase, with the returns of collection

    @property
    def ref_policy(self) -> LMPolicy:
        """The reference policy of the actor-critic."""
        return self.actor_critic.ref_policy

    @property
    def needs_references(self) -> bool:
        """Whether the loss has a term of references."""
        return self.actor_critic.needs_references

    @property
    def baseline_texts(self) -> BaselineTexts:
        """The other texts of the config."""
        return self.config.baseline_texts

    def parameters(self) -> list[nn.Parameter]:
        """Return what the optimizer of the auxiliary phase trains: the policy with its value head."""
        return [*self.policy.parameters(), *self.head.parameters()]

    def join(self, ranks: Ranks) -> None:
        """Learn from a share of the texts in each process."""
        self.actor_critic.join(ranks)
        if ranks.shards and self.policy.lora is None:  # one optimizer has whole parameters, or parts of them
            shard_module(self.head.head)
        self.optimizer = adamw(self.parameters(), self.config, ranks=ranks)

    def update(self, trajectories: Trajectories, plan: Plan, *, generator: torch.Generator, timer: Timer) -> Metrics:
        """Learn from the texts of one iteration, and in the last of a phase from all of it again.

        In the critic's warm-up no phase ends: its auxiliary phase would move the policy.
        """
        metrics = self.actor_critic.update(trajectories, plan, generator=generator, timer=timer)
        warms_up = self.actor_critic.critic_updates[plan.critic] <= self.config.critic_warmup
        found = self.actor_critic.experience
        assert found is not None, "the actor-critic has just learned from it"
        self.phase.append(replace(found, targets=None, group_size=1))
        if warms_up or len(self.phase) < self.config.auxiliary_every:
            return metrics
        with timer.time("learn"):
            metrics |= self._auxiliary_phase(generator)
        self.phase.clear()
        return metrics

    def _auxiliary_phase(self, generator: torch.Generator) -> Metrics:
        """Train the policy's body and the critic on the returns of the phase; return the means of the losses."""
        before, experience = self._policy_before(), Experience.cat(self.phase)
        set_learning_rate(self.optimizer, self.actor_critic.optimizer.param_groups[0]["lr"])
        epochs, size = self.config.auxiliary_epochs, self.config.minibatch_size
        parts = minibatches(len(experience), epochs=epochs, size=size, generator=generator)
        return mean_metrics(self._step(before, experience.part(rows)) for rows in parts)

    def _policy_before(self) -> LMPolicy:
        """Return a copy of the policy that stays as it is, sharded as the policy is."""
        before = self.policy.frozen_copy()
        if self.actor_critic.ranks.shards:
            before.language_model.shard(on=self.policy.language_model)
        return before

    def _step(self, before: LMPolicy, batch: Experience) -> Metrics:
        """Take one step of the policy's body with its value head, and one of the critic; no metrics if skipped."""
        critic, critic_optimizer = self.actor_critic.critic("policy")
        metrics, limit = self.gradients(before, batch), self.config.max_grad_norm
        networks = {"grad_norm/policy": self.parameters(), "grad_norm/critic": critic.parameters()}
        norms = {name: clip_gradients(parameters, limit) for name, parameters in networks.items()}
        if not self.guard.allows(metrics | norms):
            return {}
        if self.config.auxiliary_coef > 0:  # else AdamW would make whole steps of a rounded gradient of the KL
            self.optimizer.step()
        critic_optimizer.step()
        return metrics

    def gradients(self, before: LMPolicy, batch: Experience) -> Metrics:
        """Leave the gradients of the auxiliary phase's loss in policy, value head and critic; return its terms.

            c ½ mean (V_aux − R)² + β mean KL(π_before‖π) + ½ mean (V − R)²

        with c `auxiliary_coef` and β `clone_coef`, over the tokens whose values the critic learns. Computed in parts by
        several ranks, as `Epochs.gradients` is.

        Args:
            before: the policy as it was when the phase began.
            batch: the minibatch.
        """
        (critic, _), epochs = self.actor_critic.critic("policy"), self.actor_critic.epochs
        trained, metrics = [*self.parameters(), *critic.parameters()], defaultdict[str, float](float)
        for parameter in trained:
            parameter.grad = None
        count = batch.counts.learn_critic
        for part in epochs.parts(batch):
            texts, returns, learn = part.texts, part.returns, part.learn_critic
            with epochs.autocast():
                with torch.no_grad():
                    _, old = self._read(before, texts)
                hidden, own = self._read(self.policy, texts)
                clone = divergence_loss(own, old, learn, form="forward", count=count)
                value = value_loss(self.head.of_hidden(hidden)[:, :-1], returns, returns, learn, count=count)
            (self.config.auxiliary_coef * value + self.config.clone_coef * clone).backward()
            with epochs.autocast():
                true = value_loss(critic(texts)[:, :-1], returns, returns, learn, count=count)
            true.backward()
            losses = {"auxiliary/loss": value, "auxiliary/kl": clone, "auxiliary/critic_loss": true}
            for name, loss in losses.items():
                metrics[name] += float(loss.detach())
        epochs.ranks.sum_gradients(trained)
        return epochs.ranks.sum(metrics)

    def _read(self, policy: LMPolicy, texts: Texts) -> tuple[Tensor, Tensor]:
        """Return a policy's last hidden states, (B, T + 1, D), and the logits of its distributions, (B, T, V)."""
        hidden = policy.language_model.hidden(texts)
        return hidden, policy.token_logits(texts, self.layout, hidden)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the actor-critic, the value head, and the texts of the phase."""
        return {
            "actor_critic": self.actor_critic.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "guard": self.guard.state_dict(),
            "phase": [asdict(part) for part in self.phase],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.actor_critic.load_state_dict(state["actor_critic"])
        self.head.load_state_dict(state["head"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.guard.load_state_dict(state["guard"])
        parts = [Experience(**part | {"texts": Texts(**part["texts"])}) for part in state["phase"]]
        self.phase = [part.to(torch.device("cpu")) for part in parts]
