"""Adversarial learning: a discriminator learns to tell references from the policy's texts, and its logit is the reward.

The environment's own reward is logged but not learned from. A discriminator of tokens has a logit for each token, which
is that token's reward.

B texts, T new tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.actors.references import ReferenceTokens, is_positive, reference_texts
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.agents.learners.adversarial_config import AdversarialConfig
from tril_gym.agents.learners.discriminator import Discriminator, TrainedWhole, make_discriminator
from tril_gym.agents.learners.learner import Learner, Metrics, mean_metrics
from tril_gym.agents.learners.nonfinite import StepGuard
from tril_gym.agents.learners.optimizer import adamw, load_optimizer_state
from tril_gym.agents.learners.token_discriminator import make_token_discriminator
from tril_gym.functional.losses import discriminator_loss, gradient_penalty
from tril_gym.functional.masked import masked_whiten
from tril_gym.functional.returns import discriminator_rewards
from tril_gym.models.texts import Texts
from tril_gym.utils.profiler import Timer
from tril_gym.utils.ranks import ALONE, Ranks

PENALTY, LOSS = "discriminator/gradient_penalty", "discriminator/loss"


class AdversarialLearner(Learner):
    """Update a discriminator, then the policy with the discriminator's rewards."""

    needs_references = True
    needs_rewards = False

    def __init__(self, policy: LMPolicy, config: AdversarialConfig, layout: TextLayout) -> None:
        self.config, self.ranks = config, ALONE
        self.actor_critic = ActorCritic(policy, config, layout)
        self.tokenize, self.guard = ReferenceTokens(layout), StepGuard(config.skip_nonfinite)
        # Pairs of references and the policy's texts of the same prompts, of the last iterations.
        self.replay: deque[tuple[Texts, Texts]] = deque(maxlen=config.discriminator_replay)
        self.is_per_token = config.discriminator_level == "token"
        make = make_token_discriminator if self.is_per_token else make_discriminator
        self.set_discriminator(make(config.discriminator, policy, layout))

    def set_discriminator(self, discriminator: Discriminator) -> None:
        """Replace the discriminator and its optimizer.

        Raises:
            ValueError: the gradient penalty cannot be computed for it.
        """
        if self.config.gradient_penalty > 0 and not isinstance(discriminator, TrainedWhole):
            raise ValueError(
                f"gradient_penalty is {self.config.gradient_penalty}, but gradients with respect to embeddings are"
                " available only for tiny and sequence classifiers, not for"
                f" {type(discriminator).__name__}; leave it at 0, or use tiny or the name or folder of a sequence"
                " classifier as discriminator"
            )
        self.discriminator = discriminator
        self.optimizer = adamw(
            discriminator.parameters(), self.config, learning_rate=self.config.discriminator_learning_rate
        )

    @property
    def ref_policy(self) -> LMPolicy:
        """The reference policy of the actor-critic."""
        return self.actor_critic.ref_policy

    def join(self, ranks: Ranks) -> None:
        """Read and learn from a share of the texts in each process."""
        self.ranks = ranks
        self.actor_critic.join(ranks)

    def collection_plan(self, plan: Plan) -> Plan:
        """Return the actor-critic's collection plan."""
        return self.actor_critic.collection_plan(plan)

    def update(self, trajectories: Trajectories, plan: Plan, *, generator: torch.Generator, timer: Timer) -> Metrics:
        """Update the discriminator, score the texts with it, then update the policy.

        In the first `discriminator_warmup` iterations the policy takes no step.
        """
        iteration = self.actor_critic.iteration
        with timer.time("discriminator"):
            rows = self._expert_rows(trajectories)
            experts = reference_texts(trajectories[rows], self.tokenize, generator)
            metrics = self._update_discriminator(experts, trajectories.texts[rows], generator)
            rewards = self._rewards(self.logits(trajectories.texts))
            baselines = self._rewards(self.logits(experts)) if self.config.reference_baseline else None
        is_real = self._is_real(trajectories.texts)
        metrics["discriminator/reward"] = float(rewards[is_real].mean())
        if baselines is not None:
            rewards = rewards - baselines
        if self.config.normalize_reward:
            rewards = masked_whiten(rewards, is_real)
        trajectories = with_rewards(trajectories, rewards)
        learns_policy = iteration >= self.config.discriminator_warmup
        return metrics | self.actor_critic.update(
            trajectories, plan, generator=generator, timer=timer, learns_policy=learns_policy
        )

    def _rewards(self, logits: Tensor) -> Tensor:
        """Return the rewards of logits, (B,) or (B, T), before they are normalised."""
        if self.config.reward_clip is not None:
            logits = logits.clamp(-self.config.reward_clip, self.config.reward_clip)
        return discriminator_rewards(logits, form=self.config.reward_form)

    def _is_real(self, texts: Texts) -> Tensor:
        """Return where logits count: all of texts, (B,), or those of real tokens, (B, T)."""
        return texts.is_token if self.is_per_token else torch.ones(len(texts), dtype=torch.bool)

    def _flat(self, logits: Tensor, texts: Texts) -> Tensor:
        """Return the logits that count, (n,)."""
        return logits[self._is_real(texts).to(logits.device)]

    def _expert_rows(self, trajectories: Trajectories) -> Tensor:
        """Return the rows whose reference is an expert's.

        The policy's texts of the same rows are the other class, so that prompts do not tell the classes apart.
        """
        if not self.config.positive_only:
            return torch.arange(len(trajectories))
        rows = [row for row, info in enumerate(trajectories.infos) if is_positive(info)]
        if not rows:
            labels = {info.get("extras", {}).get("label") for info in trajectories.infos}
            raise ValueError(
                f"positive_only needs examples labelled 1, but none of the {len(trajectories)} texts is (labels"
                f" {labels}); leave it out, or collect more texts per iteration"
            )
        return torch.tensor(rows)

    def _update_discriminator(self, experts: Texts, written: Texts, generator: torch.Generator) -> Metrics:
        """Train on B references and B texts of the policy; accuracy and scores are those before the first step."""
        expert_logits, policy_logits = (self._flat(self.logits(texts), texts) for texts in (experts, written))
        accuracy = float(torch.cat([expert_logits > 0, policy_logits <= 0]).double().mean())
        pairs = [(experts, written), *self.replay]
        self.replay.append((experts, written))
        parts = self._minibatches(pairs, generator) if self._learns_discriminator(accuracy) else ()
        steps = [step for part in parts if (step := self._step(*part, generator))]
        return mean_metrics(steps) | {
            "discriminator/accuracy": accuracy,
            "discriminator/expert_score": float(expert_logits.sigmoid().mean()),
            "discriminator/policy_score": float(policy_logits.sigmoid().mean()),
            "discriminator/steps": len(steps),
        }

    def _learns_discriminator(self, accuracy: float) -> bool:
        """Return whether the discriminator takes steps in this iteration, which begins with this accuracy."""
        limit = self.config.discriminator_accuracy
        is_due = self.actor_critic.iteration % self.config.discriminator_every == 0
        return is_due and (limit is None or accuracy <= limit)

    def _minibatches(
        self, pairs: list[tuple[Texts, Texts]], generator: torch.Generator
    ) -> Iterable[tuple[Texts, Texts]]:
        """Yield references and as many texts of the policy for the same prompts, so that prompts tell nothing.

        An epoch has as many pairs as the current iteration, the first of `pairs`, drawn from all without replacement.
        """
        count = len(pairs[0][0])
        experts, written = (Texts.cat(part) for part in zip(*pairs, strict=True))
        for _ in range(self.config.discriminator_epochs):
            drawn = torch.randperm(len(experts), generator=generator)[:count]
            yield from ((experts[rows], written[rows]) for rows in drawn.split(self.config.minibatch_size))

    def _signs(self, experts: Texts, generator: torch.Generator) -> Tensor | None:
        """Return random signs (B, T) of the logits of tokens, if the gradient penalty needs them."""
        if not (self.is_per_token and self.config.gradient_penalty > 0):
            return None
        return torch.randint(2, experts.tokens.shape, generator=generator) * 2.0 - 1.0

    def _step(self, experts: Texts, written: Texts, generator: torch.Generator) -> Metrics:
        """Take an optimizer step of the discriminator and return its metrics; none where the step was skipped."""
        self.optimizer.zero_grad()
        rows = torch.arange(len(experts))[self.ranks.share(len(experts))]
        counts = (int(experts.lengths.sum()), int(written.lengths.sum())) if self.is_per_token else None
        signs = self._signs(experts, generator)
        signs = None if signs is None else signs[rows]
        share = len(rows) / len(experts)
        metrics = self._gradients(experts[rows], written[rows], share=share, counts=counts, signs=signs)
        self.ranks.sum_gradients(self.discriminator.parameters())
        metrics = self.ranks.sum(metrics)
        norm = nn.utils.clip_grad_norm_(self.discriminator.parameters(), self.config.max_grad_norm)
        metrics |= {"grad_norm/discriminator": float(norm)}
        if not self.guard.allows(metrics):
            return {}
        self.optimizer.step()
        return metrics

    def _gradients(
        self,
        experts: Texts,
        written: Texts,
        *,
        share: float,
        counts: tuple[int, int] | None,
        signs: Tensor | None,
    ) -> Metrics:
        """Leave the gradients of some pairs in the discriminator and return the losses, both weighed by their share.

        With `counts`, the numbers of tokens of all pairs, losses are their parts of those of all instead.
        """
        share = share if counts is None else 1.0
        penalises = self.config.gradient_penalty > 0
        metrics = dict.fromkeys([PENALTY, LOSS] if penalises else [LOSS], 0.0)
        if not len(experts):
            return metrics
        total = torch.zeros(())
        if penalises:
            assert isinstance(self.discriminator, TrainedWhole)
            expert_logits, gradients = self.discriminator.logits_and_gradients(experts, signs)
            penalty = gradient_penalty(gradients, count=None if counts is None else counts[0])
            metrics[PENALTY] = share * float(penalty.detach())
            total = self.config.gradient_penalty * penalty
        else:
            expert_logits = self.discriminator.logits(experts)
        policy_logits = self.discriminator.logits(written)
        loss = discriminator_loss(
            self._flat(expert_logits, experts),
            self._flat(policy_logits, written),
            label_smoothing=self.config.label_smoothing,
            counts=counts,
        )
        (share * (loss + total)).backward()
        metrics[LOSS] = share * float(loss.detach())
        return metrics

    @torch.no_grad()
    def logits(self, texts: Texts) -> Tensor:
        """Return the discriminator's logits, (B,) or of each token (B, T), on the CPU."""
        return self.ranks.compute_rows(
            lambda rows: self.discriminator.logits(texts[rows]), len(texts), chunk=self.config.minibatch_size
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the discriminator, its optimizer and the actor-critic."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "discriminator_optimizer": self.optimizer.state_dict(),
            "guard": self.guard.state_dict(),
            "replay": [[asdict(texts) for texts in pair] for pair in self.replay],
            "actor_critic": self.actor_critic.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.discriminator.load_state_dict(state["discriminator"])
        load_optimizer_state(self.optimizer, state["discriminator_optimizer"])
        self.guard.load_state_dict(state["guard"])
        self.replay.clear()
        self.replay.extend(
            (Texts(**experts).to("cpu"), Texts(**written).to("cpu")) for experts, written in state["replay"]
        )
        self.actor_critic.load_state_dict(state["actor_critic"])


def with_rewards(trajectories: Trajectories, rewards: Tensor) -> Trajectories:
    """Return the same texts with rewards of tokens (B, T), or of texts (B,) at their last tokens, and 0 elsewhere.

    Texts that were cut off earn no reward of a text: they bootstrap from the value after their end.
    """
    if rewards.ndim == 2:
        return replace(trajectories, rewards=torch.where(trajectories.is_token, rewards.double(), 0.0))
    return replace(trajectories, rewards=torch.where(trajectories.is_end, rewards.unsqueeze(1).double(), 0.0))
