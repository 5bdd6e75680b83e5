"""Learning against a discriminator: it learns to tell references from the policy's texts, its verdict is the reward.

The environment's own reward is never read. B texts, T new tokens.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.actors.references import ReferenceTokens, reference_texts
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories, minibatches
from tril_gym.agents.learners.actor_critic import ActorCritic, ActorCriticConfig
from tril_gym.agents.learners.discriminator import Discriminator, discriminator_of
from tril_gym.agents.learners.optimizer import Metrics, adamw, clip_gradients
from tril_gym.functional.losses import discriminator_loss
from tril_gym.functional.returns import discriminator_rewards
from tril_gym.models.texts import Texts
from tril_gym.utils.config_fields import config_field
from tril_gym.utils.profiler import Timer


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig(ActorCriticConfig):
    """The shared numbers, and the discriminator's."""

    discriminator: str = config_field(
        "tiny", "tiny, adapter (on a LoRA policy), or a sequence classifier's name or folder", group="reward"
    )
    discriminator_learning_rate: float = config_field(
        1e-3, "AdamW step size of the discriminator; it has no schedule", above=0, group="reward"
    )
    discriminator_epochs: int = config_field(
        1, "the discriminator's passes over the texts of an iteration", minimum=1, group="reward"
    )
    label_smoothing: float = config_field(
        0.0, "how far the discriminator's labels are from 0 and 1, times two", minimum=0, maximum=1, group="reward"
    )
    reward_form: Literal["logit", "gail", "probability"] = config_field(
        "logit", "what its logit pays: itself, −log(1−D) or D", group="reward"
    )
    positive_only: bool = config_field(
        False, "only examples labelled positive are experts, as IMDB's good reviews", group="reward"
    )


class AdversarialLearner:
    """A discriminator before the actor-critic update of a policy."""

    needs_references = True

    def __init__(self, policy: LMPolicy, config: AdversarialConfig, layout: TextLayout) -> None:
        self.config = config
        self.actor_critic = ActorCritic(policy, config, layout)
        self.tokenize = ReferenceTokens(layout)
        self.set_discriminator(discriminator_of(config.discriminator, policy, layout))

    def set_discriminator(self, judge: Discriminator) -> None:
        """Take a discriminator; what another one has learned is forgotten."""
        self.judge = judge
        self.optimizer = adamw(judge.parameters(), self.config, learning_rate=self.config.discriminator_learning_rate)

    @property
    def ref_policy(self) -> LMPolicy:
        """The actor-critic's."""
        return self.actor_critic.ref_policy

    def writing(self, plan: Plan) -> Plan:
        """As the actor-critic's."""
        return self.actor_critic.writing(plan)

    def update(self, trajectories: Trajectories, plan: Plan, *, generator: torch.Generator, timer: Timer) -> Metrics:
        """Let the discriminator learn, then the policy from its verdicts."""
        with timer.time("discriminator"):
            rows = self._with_expert(trajectories)
            experts = reference_texts(trajectories[rows], self.tokenize, generator)
            metrics = self._learn(experts, trajectories.texts[rows], generator)
            verdicts = self.verdicts(trajectories.texts)
        pay = discriminator_rewards(verdicts, form=self.config.reward_form)
        metrics["discriminator/reward"] = float(pay.mean())
        return metrics | self.actor_critic.update(paid(trajectories, pay), plan, generator=generator, timer=timer)

    def _with_expert(self, trajectories: Trajectories) -> Tensor:
        """Rows whose reference is an expert's. Both classes are of the same prompts, or these would tell them apart."""
        if not self.config.positive_only:
            return torch.arange(len(trajectories))
        labels = [info.get("extras", {}).get("label") for info in trajectories.infos]
        if 1 not in labels:
            raise ValueError(
                f"positive_only needs examples labelled 1, of {len(labels)} texts none is (labels {set(labels)}); leave"
                " it out, or collect more texts an iteration"
            )
        return torch.tensor([row for row, label in enumerate(labels) if label == 1])

    def _learn(self, experts: Texts, written: Texts, generator: torch.Generator) -> Metrics:
        """Some passes over B references and the B texts of the policy; figures are of before, when these were new."""
        true, false = self.verdicts(experts), self.verdicts(written)
        means: defaultdict[str, list[float]] = defaultdict(list)
        epochs, size = self.config.discriminator_epochs, self.config.minibatch_size
        for rows in minibatches(len(written), epochs=epochs, size=size, generator=generator):
            self.optimizer.zero_grad()
            logits = self.judge.logits(experts[rows]), self.judge.logits(written[rows])
            loss = discriminator_loss(*logits, label_smoothing=self.config.label_smoothing)
            loss.backward()
            norm = clip_gradients(self.judge.parameters(), self.config.max_grad_norm)
            self.optimizer.step()
            means["discriminator/loss"].append(float(loss.detach()))
            means["grad_norm/discriminator"].append(norm)
        return {name: sum(values) / len(values) for name, values in means.items()} | {
            "discriminator/accuracy": float(torch.cat([true > 0, false <= 0]).double().mean()),
            "discriminator/expert_score": float(true.sigmoid().mean()),
            "discriminator/policy_score": float(false.sigmoid().mean()),
        }

    @torch.no_grad()
    def verdicts(self, texts: Texts) -> Tensor:
        """(B,) logits."""
        parts = torch.arange(len(texts)).split(self.config.minibatch_size)
        return torch.cat([self.judge.logits(texts[rows]).cpu() for rows in parts])

    def state_dict(self) -> dict[str, Any]:
        """The discriminator, its optimizer, and the actor-critic's."""
        return {
            "discriminator": self.judge.state_dict(),
            "discriminator_optimizer": self.optimizer.state_dict(),
            "actor_critic": self.actor_critic.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.judge.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["discriminator_optimizer"])
        self.actor_critic.load_state_dict(state["actor_critic"])


def paid(trajectories: Trajectories, pay: Tensor) -> Trajectories:
    """The same texts, whose last tokens are paid (B,) and nothing else is."""
    columns = torch.arange(trajectories.tokens.shape[1])
    is_last = columns == trajectories.lengths.unsqueeze(1) - 1
    return replace(trajectories, rewards=torch.where(is_last, pay.unsqueeze(1).double(), 0.0))
