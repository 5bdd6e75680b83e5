"""Adversarial learning: a discriminator learns to tell references from the policy's texts, and its logit is the reward.

The environment's own reward is logged but not learned from. B texts, T new tokens.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.actors.references import ReferenceTokens, reference_texts
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories, minibatches
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig
from tril_gym.agents.learners.discriminator import Discriminator, make_discriminator
from tril_gym.agents.learners.learner import Learner, Metrics
from tril_gym.agents.learners.optimizer import adamw
from tril_gym.functional.losses import discriminator_loss
from tril_gym.functional.returns import discriminator_rewards
from tril_gym.models.texts import Texts
from tril_gym.utils.config_fields import config_field
from tril_gym.utils.profiler import Timer


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig(ActorCriticConfig):
    """Hyperparameters of the actor-critic update and of the discriminator."""

    discriminator: str = config_field(
        "tiny",
        "Discriminator: tiny, adapter (with a LoRA policy), or name or folder of a sequence classifier",
        group="reward",
    )
    discriminator_learning_rate: float = config_field(
        1e-3, "AdamW step size of the discriminator, constant", above=0, group="reward"
    )
    discriminator_epochs: int = config_field(
        1, "Passes of the discriminator over the texts of an iteration", minimum=1, group="reward"
    )
    label_smoothing: float = config_field(
        0.0,
        "Label smoothing s of the discriminator, whose labels are s/2 and 1−s/2",
        minimum=0,
        maximum=1,
        group="reward",
    )
    reward_form: Literal["logit", "gail", "probability"] = config_field(
        "logit", "Reward from the logit: the logit itself, −log(1−D), or D", group="reward"
    )
    positive_only: bool = config_field(
        False, "Take as experts only examples with label 1, such as IMDB's positive reviews", group="reward"
    )


class AdversarialLearner(Learner):
    """Update a discriminator, then the policy with the discriminator's rewards."""

    needs_references = True

    def __init__(self, policy: LMPolicy, config: AdversarialConfig, layout: TextLayout) -> None:
        self.config = config
        self.actor_critic = ActorCritic(policy, config, layout)
        self.tokenize = ReferenceTokens(layout)
        self.set_discriminator(make_discriminator(config.discriminator, policy, layout))

    def set_discriminator(self, discriminator: Discriminator) -> None:
        """Replace the discriminator and its optimizer."""
        self.discriminator = discriminator
        self.optimizer = adamw(
            discriminator.parameters(), self.config, learning_rate=self.config.discriminator_learning_rate
        )

    @property
    def ref_policy(self) -> LMPolicy:
        """The reference policy of the actor-critic."""
        return self.actor_critic.ref_policy

    def collection_plan(self, plan: Plan) -> Plan:
        """Return the actor-critic's collection plan."""
        return self.actor_critic.collection_plan(plan)

    def update(self, trajectories: Trajectories, plan: Plan, *, generator: torch.Generator, timer: Timer) -> Metrics:
        """Update the discriminator, score the texts with it, then update the policy."""
        with timer.time("discriminator"):
            rows = self._expert_rows(trajectories)
            experts = reference_texts(trajectories[rows], self.tokenize, generator)
            metrics = self._update_discriminator(experts, trajectories.texts[rows], generator)
            logits = self.logits(trajectories.texts)
        rewards = discriminator_rewards(logits, form=self.config.reward_form)
        metrics["discriminator/reward"] = float(rewards.mean())
        trajectories = with_final_rewards(trajectories, rewards)
        return metrics | self.actor_critic.update(trajectories, plan, generator=generator, timer=timer)

    def _expert_rows(self, trajectories: Trajectories) -> Tensor:
        """Return the rows whose reference is an expert's.

        The policy's texts of the same rows are the other class, so that prompts do not tell the classes apart.
        """
        if not self.config.positive_only:
            return torch.arange(len(trajectories))
        labels = [info.get("extras", {}).get("label") for info in trajectories.infos]
        if 1 not in labels:
            raise ValueError(
                f"positive_only needs examples labelled 1, of {len(labels)} texts none is (labels {set(labels)}); leave"
                " it out, or collect more texts an iteration"
            )
        return torch.tensor([row for row, label in enumerate(labels) if label == 1])

    def _update_discriminator(self, experts: Texts, written: Texts, generator: torch.Generator) -> Metrics:
        """Train on B references and B texts of the policy; accuracy and scores are those before the first step."""
        expert_logits, policy_logits = self.logits(experts), self.logits(written)
        means: defaultdict[str, list[float]] = defaultdict(list)
        epochs, size = self.config.discriminator_epochs, self.config.minibatch_size
        for rows in minibatches(len(written), epochs=epochs, size=size, generator=generator):
            self.optimizer.zero_grad()
            logits = self.discriminator.logits(experts[rows]), self.discriminator.logits(written[rows])
            loss = discriminator_loss(*logits, label_smoothing=self.config.label_smoothing)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self.discriminator.parameters(), self.config.max_grad_norm)
            self.optimizer.step()
            means["discriminator/loss"].append(float(loss.detach()))
            means["grad_norm/discriminator"].append(float(norm))
        return {name: sum(values) / len(values) for name, values in means.items()} | {
            "discriminator/accuracy": float(torch.cat([expert_logits > 0, policy_logits <= 0]).double().mean()),
            "discriminator/expert_score": float(expert_logits.sigmoid().mean()),
            "discriminator/policy_score": float(policy_logits.sigmoid().mean()),
        }

    @torch.no_grad()
    def logits(self, texts: Texts) -> Tensor:
        """Return the discriminator's logits, (B,), on the CPU."""
        parts = torch.arange(len(texts)).split(self.config.minibatch_size)
        return torch.cat([self.discriminator.logits(texts[rows]).cpu() for rows in parts])

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the discriminator, its optimizer and the actor-critic."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "discriminator_optimizer": self.optimizer.state_dict(),
            "actor_critic": self.actor_critic.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["discriminator_optimizer"])
        self.actor_critic.load_state_dict(state["actor_critic"])


def with_final_rewards(trajectories: Trajectories, rewards: Tensor) -> Trajectories:
    """Return the same texts with rewards (B,) at their last tokens and 0 elsewhere."""
    columns = torch.arange(trajectories.tokens.shape[1])
    is_last = columns == trajectories.lengths.unsqueeze(1) - 1
    return replace(trajectories, rewards=torch.where(is_last, rewards.unsqueeze(1).double(), 0.0))
