"""Credit assignment: from finished texts to the advantage and the return of each token.

Two steps: score the texts under the reference policy and the critic, then turn rewards, KL and values into advantages.
Which function computes the advantages is an argument.

B texts, T new tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig
from tril_gym.agents.learners.critic import Critic, value_after
from tril_gym.agents.learners.experience import Experience
from tril_gym.agents.learners.optimizer import autocast_of
from tril_gym.functional.kl import kl_terms, nats_per_text
from tril_gym.functional.masked import masked_whiten
from tril_gym.functional.returns import gae, kl_penalised_rewards
from tril_gym.utils.profiler import Timer
from tril_gym.utils.ranks import ALONE, Ranks


class Advantages(Protocol):
    """Estimates advantages."""

    def __call__(self, trajectories: Trajectories, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """Return advantages and returns, both (B, T), 0 on padding.

        Args:
            trajectories: finished texts with values.
            rewards: (B, T) reward of each token, less the KL penalty.
        """


def gae_advantages(
    trajectories: Trajectories, rewards: Tensor, *, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns by GAE; only texts that were cut off bootstrap from the value after their end."""
    values = trajectories.values
    assert values is not None, "add_reference_and_values first"
    after = value_after(values, trajectories.lengths)
    bootstrap = torch.where(trajectories.is_cut_off, after, torch.zeros_like(after)).double()
    return gae(rewards, values[:, :-1], bootstrap, trajectories.is_token, gamma=gamma, gae_lambda=gae_lambda)


class CreditAssignment:
    """Scores finished texts and assigns their rewards to tokens.

    Args:
        policy: the policy that is trained.
        ref_policy: the frozen policy that the KL is measured to.
        layout: sizes of the environment.
        config: hyperparameters.
        advantages: the estimator of advantages and returns.
    """

    def __init__(
        self,
        policy: LMPolicy,
        ref_policy: LMPolicy,
        layout: TextLayout,
        config: ActorCriticConfig,
        *,
        advantages: Advantages,
    ) -> None:
        self.policy, self.ref_policy, self.layout, self.config = policy, ref_policy, layout, config
        self.advantages = advantages
        self.ranks: Ranks = ALONE
        self.autocast = autocast_of(config, policy.device)
        # Without gradients no activations are kept: more texts fit, and share rows with less padding.
        self.chunk = 4 * config.minibatch_size

    @property
    def is_low_precision(self) -> bool:
        """Whether a cached and a full forward pass differ by rounding enough to disturb ratios."""
        half = next(self.policy.model.parameters()).dtype in (torch.float16, torch.bfloat16)
        return half or self.config.mixed_precision != "no"

    @property
    def scores_again(self) -> bool:
        """Whether the log-probabilities at sampling are replaced by those of a pass before the update."""
        return self.is_low_precision or self.config.sampling_correction != "none"

    @torch.no_grad()
    def add_reference_and_values(
        self, trajectories: Trajectories, critic: Critic, timer: Timer | None = None
    ) -> Trajectories:
        """Add log-probabilities under the reference policy, and the values that were not recorded in collection.

        In low precision, and for a correction of the sampling, the policy's own log-probabilities are computed again,
        by the pass that training uses.
        """
        timer = timer or Timer()
        old_logprobs = trajectories.old_logprobs
        if self.scores_again:
            old_logprobs = self._logprobs(self.policy, trajectories).double()
        with timer.time("reference"):
            ref_logprobs = self._logprobs(self.ref_policy, trajectories)
        with timer.time("values"), self.autocast():
            values = self._values(trajectories, critic)
        return replace(trajectories, ref_logprobs=ref_logprobs, values=values, old_logprobs=old_logprobs)

    def _logprobs(self, policy: LMPolicy, trajectories: Trajectories) -> Tensor:
        """Return the log-probabilities of all tokens under a policy, (B, T) on the CPU."""
        texts = trajectories.texts

        def score(rows: Tensor) -> Tensor:
            return policy.token_logprobs(texts[rows], self.layout).logprobs

        with self.autocast():
            return self.ranks.compute_rows(score, len(texts), chunk=self.chunk)

    def _values(self, trajectories: Trajectories, critic: Critic) -> Tensor:
        """Return the values, (B, T + 1); if they were recorded, read only the texts that were cut off again.

        Their last value is missing: collection records the value before each token that it writes.
        """
        known = trajectories.values
        rows = torch.arange(len(trajectories)) if known is None else trajectories.is_cut_off.nonzero().squeeze(1)
        if known is not None and not len(rows):
            return known
        texts = trajectories.texts[rows]
        values = self.ranks.compute_rows(lambda part: critic(texts[part]), len(texts), chunk=self.chunk)
        return values if known is None else known.index_copy(0, rows, values.to(known.dtype))

    def experience(self, trajectories: Trajectories, *, kl_coef: float) -> Experience:
        """Return the experience to learn from: KL-penalised rewards become advantages and returns."""
        ref_logprobs, values = trajectories.ref_logprobs, trajectories.values
        assert ref_logprobs is not None, "add_reference_and_values first"
        assert values is not None, "add_reference_and_values first"
        terms = kl_terms(trajectories.old_logprobs, ref_logprobs.double(), estimator=self.config.kl_estimator)
        rewards = kl_penalised_rewards(trajectories.rewards, terms, trajectories.wrote, kl_coef=kl_coef)
        advantages, returns = self.advantages(trajectories, rewards)
        if self.config.normalize_advantages:
            advantages = masked_whiten(advantages, trajectories.learn)
        # Scores are at least float32, whatever the weights are.
        precision = torch.promote_types(next(self.policy.model.parameters()).dtype, torch.float32)
        return Experience(
            texts=trajectories.texts,
            old_logprobs=trajectories.old_logprobs.to(precision),
            old_values=values[:, :-1].to(precision),
            advantages=advantages.to(precision),
            returns=returns.to(precision),
            learn=trajectories.learn,
            learn_critic=trajectories.is_rollout,
        )


def kl_of(trajectories: Trajectories) -> float:
    """Return the KL to the reference policy in nats per text, of texts that were scored."""
    assert trajectories.ref_logprobs is not None, "add_reference_and_values first"
    old, ref = trajectories.old_logprobs, trajectories.ref_logprobs.double()
    return float(nats_per_text(old, ref, trajectories.wrote))
