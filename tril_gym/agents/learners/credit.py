"""Credit assignment: from finished texts to the advantage and the return of each token.

Two steps: score the texts under the reference policy and the critic, then turn rewards, KL and values into advantages.
Which function computes the advantages is an argument.

B texts, T new tokens.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.advantages import Advantages, text_rewards
from tril_gym.agents.learners.critic import Critic
from tril_gym.agents.learners.experience import Experience
from tril_gym.agents.learners.optimizer import autocast_of
from tril_gym.agents.learners.policy_config import PolicyConfig
from tril_gym.functional.kl import kl_terms, nats_per_text
from tril_gym.functional.returns import kl_penalised_rewards
from tril_gym.models.texts import Texts
from tril_gym.utils.profiler import Timer
from tril_gym.utils.ranks import ALONE, Ranks

Key = tuple[tuple[int, ...], tuple[int, ...]]  # ids of a prompt and of its completion
KEPT = 100_000  # texts


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
        config: PolicyConfig,
        *,
        advantages: Advantages,
    ) -> None:
        self.policy, self.ref_policy, self.layout, self.config = policy, ref_policy, layout, config
        self.advantages = advantages
        self.ranks: Ranks = ALONE
        self.known: dict[Key, Tensor] = {}  # log-probabilities of given texts under the reference policy, (T,)
        self.autocast = autocast_of(config, policy.device)
        # Without gradients no activations are kept: more texts fit, and share rows with less padding.
        self.chunk = 4 * config.minibatch_size

    @property
    def is_low_precision(self) -> bool:
        """Whether a cached and a full forward pass differ by rounding enough to disturb ratios."""
        return self.policy.language_model.is_low_precision or self.config.mixed_precision != "no"

    @property
    def scores_again(self) -> bool:
        """Whether the log-probabilities at sampling are replaced by those of a pass before the update."""
        return self.is_low_precision or self.config.scores_again

    @torch.no_grad()
    def add_reference_and_values(
        self, trajectories: Trajectories, critic: Critic | None, timer: Timer | None = None
    ) -> Trajectories:
        """Add log-probabilities under the reference policy, and the values that were not recorded in collection.

        Without a critic there are no values. In low precision, for a correction of the sampling, and for texts that the
        policy did not write, its own log-probabilities are computed again, by the pass that training uses.
        """
        timer = timer or Timer()
        old_logprobs = trajectories.old_logprobs
        if self.scores_again:
            old_logprobs = self._logprobs(self.policy, trajectories.texts).double()
        elif trajectories.given is not None:
            rows = trajectories.given.nonzero().squeeze(1)
            given = self._logprobs(self.policy, trajectories.texts[rows]).double()
            old_logprobs = old_logprobs.index_copy(0, rows, given)
        with timer.time("reference"):
            ref_logprobs = self._reference_logprobs(trajectories.texts)
        if critic is None:
            return replace(trajectories, ref_logprobs=ref_logprobs, old_logprobs=old_logprobs)
        with timer.time("values"), self.autocast():
            values = self._values(trajectories, critic)
        return replace(trajectories, ref_logprobs=ref_logprobs, values=values, old_logprobs=old_logprobs)

    def renew_reference(self) -> None:
        """Let the reference policy be the policy as it is now."""
        self.ref_policy.language_model.load_state_dict(self.policy.language_model.state_dict())
        self.known.clear()

    @torch.no_grad()
    def values_before(self, trajectories: Trajectories, critic: Critic, ends: Tensor) -> Tensor:
        """Return a critic's value of each text before its token `ends`, (B,) -> (B,)."""
        with self.autocast():
            return self._values(trajectories, critic).gather(1, ends.unsqueeze(1)).squeeze(1)

    def _reference_logprobs(self, texts: Texts) -> Tensor:
        """Return the log-probabilities under the reference policy, (B, T); those of given texts are kept."""
        if not self.config.has_given_texts:
            return self._logprobs(self.ref_policy, texts)
        keys = [(tuple(texts.prompt_ids(row)), tuple(texts.completion_ids(row))) for row in range(len(texts))]
        missing = {key: row for row, key in enumerate(keys) if key not in self.known}
        if missing:
            found = self._logprobs(self.ref_policy, texts[torch.tensor(list(missing.values()))])
            self.known.update(zip(missing, found, strict=True))
        scores = torch.stack([self.known[key] for key in keys])
        while len(self.known) > KEPT:
            self.known.pop(next(iter(self.known)))
        return scores

    def _logprobs(self, policy: LMPolicy, texts: Texts) -> Tensor:
        """Return the log-probabilities of all tokens under a policy, (B, T) on the CPU."""

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
        in_loss = kl_coef if self.config.has_kl_in_loss else 0.0
        rewards = self.penalised_rewards(trajectories, kl_coef=kl_coef - in_loss)
        advantages, returns = self.advantages(trajectories, rewards)
        values = trajectories.rewards.new_zeros(returns.shape) if values is None else values[:, :-1]
        # Scores are at least float32, whatever the weights are.
        precision = torch.promote_types(next(self.policy.model.parameters()).dtype, torch.float32)
        return Experience(
            texts=trajectories.texts,
            old_logprobs=trajectories.old_logprobs.to(precision),
            ref_logprobs=ref_logprobs.to(precision),
            old_values=values.to(precision),
            advantages=advantages.to(precision),
            returns=returns.to(precision),
            learn=trajectories.learn,
            learn_critic=trajectories.is_rollout,
            given=None if trajectories.given is None else trajectories.learn & trajectories.given.unsqueeze(1),
            rewards=text_rewards(trajectories, rewards).to(precision),
            kl_coef=in_loss,
            group_size=trajectories.group_size,
        )

    def penalised_rewards(self, trajectories: Trajectories, *, kl_coef: float) -> Tensor:
        """Return the rewards of tokens less the KL penalty: (B, T)."""
        assert trajectories.ref_logprobs is not None, "add_reference_and_values first"
        ref_logprobs = trajectories.ref_logprobs.double()
        terms = kl_terms(trajectories.old_logprobs, ref_logprobs, estimator=self.config.kl_form)
        return kl_penalised_rewards(trajectories.rewards, terms, trajectories.wrote, kl_coef=kl_coef)


def kl_of(trajectories: Trajectories) -> float:
    """Return the KL to the reference policy in nats per text, of texts that were scored."""
    assert trajectories.ref_logprobs is not None, "add_reference_and_values first"
    old, ref = trajectories.old_logprobs, trajectories.ref_logprobs.double()
    return float(nats_per_text(old, ref, trajectories.wrote))
