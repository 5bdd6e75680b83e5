"""Epochs over minibatches: the one loop that turns experience into optimizer steps of policy and critic.

The loop knows no algorithm: advantages are in the experience, and the policy's loss is an argument.

B texts, T new tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import minibatches
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig
from tril_gym.agents.learners.critic import Critic
from tril_gym.agents.learners.experience import Counts, Experience
from tril_gym.agents.learners.learner import Metrics, mean_metrics
from tril_gym.agents.learners.nonfinite import StepGuard
from tril_gym.agents.learners.objectives import Objective
from tril_gym.agents.learners.optimizer import autocast_of, clip_gradients
from tril_gym.agents.learners.policy_config import PolicyConfig
from tril_gym.functional import losses
from tril_gym.models.lm_head import EntropyMode
from tril_gym.utils.ranks import ALONE, Ranks

# What compares sampling with scoring; after an update, the policy has moved.
RATIO_ERROR = "policy/ratio_error"
SAMPLING_ERROR_MAX, SAMPLING_ERROR_MEAN = "policy/sampling_error_max", "policy/sampling_error_mean"
BEFORE_FIRST_UPDATE = (RATIO_ERROR, SAMPLING_ERROR_MAX, SAMPLING_ERROR_MEAN)


class Epochs:
    """Trains a policy, and a critic if there is one, on experience.

    Args:
        policy: trained in place.
        optimizer: of the policy.
        layout: sizes of the environment.
        config: hyperparameters.
        objective: the loss of the policy, before entropy bonus and target.
    """

    def __init__(
        self,
        policy: LMPolicy,
        optimizer: torch.optim.Optimizer,
        layout: TextLayout,
        config: PolicyConfig,
        *,
        objective: Objective,
    ) -> None:
        self.policy, self.optimizer, self.layout, self.config = policy, optimizer, layout, config
        self.objective = objective
        self.autocast = autocast_of(config, policy.device)
        self.guard = StepGuard(config.skip_nonfinite)
        self.ranks: Ranks = ALONE

    def run(
        self,
        experience: Experience,
        critic: Critic | None,
        critic_optimizer: torch.optim.Optimizer | None,
        generator: torch.Generator,
        *,
        learns_policy: bool = True,
    ) -> Metrics:
        """Take one optimizer step per minibatch and return the means of the steps' metrics.

        The epochs end early, before a step, when the policy has moved by more than 1.5 · target_kl. A step whose losses
        or gradient norms are not finite is not taken; see `StepGuard`.

        Args:
            experience: what is learned from.
            critic: trained in place, if there is one.
            critic_optimizer: of the critic.
            generator: shuffles the minibatches.
            learns_policy: whether the policy takes steps; if not, the critic learns alone, of a shared one the head.

        Raises:
            NonFiniteError: a loss or gradient norm is not finite, and no further step may be skipped.
        """
        if not len(experience):
            return self.guard.skipped_since_last()
        size = self.config.minibatch_size
        lengths = self._lengths_to_group(experience)
        parts = minibatches(
            len(experience),
            epochs=self.config.epochs,
            size=size,
            generator=generator,
            lengths=lengths,
            group_size=experience.group_size,
        )
        steps: list[Metrics] = []
        read = 0  # texts; groups are whole, so minibatches may have fewer texts than `size`, or more
        for step, rows in enumerate(parts):
            batch = experience.part(rows)
            # A mean over each minibatch of similar lengths would weigh tokens of short texts more than those of long.
            counts = batch.counts if lengths is None else experience.counts.share(len(rows), len(experience))
            # An entropy without a bonus is only logged: the first epoch's is enough.
            logged: EntropyMode = "detached" if read < len(experience) else "none"
            read += len(rows)
            metrics = self.gradients(
                batch, critic, counts, entropies="gradient" if self.config.ent_coef > 0 else logged
            )
            if step > 0:
                for name in BEFORE_FIRST_UPDATE:
                    del metrics[name]
            kl_exceeded = self._kl_exceeded(metrics["policy/approx_kl"] * counts.own / max(1, batch.counts.own))
            if not kl_exceeded:
                norms = self._clip(critic, learns_policy=learns_policy)
                if not self.guard.allows(loss_terms(metrics) | norms):
                    continue  # its figures would make the means of the others NaN
                metrics |= self._step(batch.counts, critic, critic_optimizer, norms, learns_policy=learns_policy)
            steps.append(metrics)  # those of the step that ends the epochs as well: they say why
            if kl_exceeded:
                break
        found = mean_metrics(steps)
        return found | explained_by_regression(found) | self.guard.skipped_since_last()

    def _lengths_to_group(self, experience: Experience) -> Tensor | None:
        """Return the lengths of the texts, (B,), if minibatches are of similar ones; None for random minibatches."""
        chosen = self.config.group_by_length
        by_length = not self.policy.language_model.can_pack if chosen is None else chosen
        return experience.texts.lengths if by_length else None

    def _kl_exceeded(self, approx_kl: float) -> bool:
        """Return whether the KL to π_old, in nats per learned token of a minibatch, ends the epochs."""
        return self.config.target_kl is not None and approx_kl > 1.5 * self.config.target_kl

    def gradients(
        self,
        batch: Experience,
        critic: Critic | None,
        counts: Counts | None = None,
        *,
        entropies: EntropyMode = "gradient",
    ) -> Metrics:
        """Leave the gradients of a minibatch's losses in policy and critic, and return the terms of the losses.

        Computed in `gradient_accumulation` parts, each divided by the counts of the whole, so that they add up to it;
        with several ranks, each computes its share of the texts.

        Args:
            batch: the minibatch.
            critic: trained on the returns, if there is one.
            counts: divisors of the losses; by default the numbers of tokens of the minibatch.
            entropies: whether they are computed.
        """
        counts = counts or batch.counts
        trained = self._trained(critic)
        for parameter in trained:
            parameter.grad = None
        metrics: defaultdict[str, float] = defaultdict(float)
        errors = []
        for part in self.parts(batch):
            with self.autocast():
                is_shared = critic is not None and critic.is_shared
                hidden = self.policy.language_model.hidden(part.texts) if is_shared else None
                loss, terms = self.policy_terms(part, counts, entropies=entropies, hidden=hidden)
            if not is_shared:  # backward at once: only one network's activations are in memory at a time
                loss.backward()
                loss = torch.zeros_like(loss)
            if critic is not None:
                with self.autocast():
                    terms["critic/loss"] = self.value_loss(part, counts, critic, hidden=hidden)
                (loss + self._critic_config.vf_coef * terms["critic/loss"]).backward()
            errors.append([float(terms.pop(name)) for name in BEFORE_FIRST_UPDATE])
            for name, term in terms.items():
                metrics[name] += float(term.detach())
        self.ranks.sum_gradients(trained)
        ratios, largest, sums = zip(*errors, strict=True)
        found = self.ranks.sum(metrics) | self.ranks.max({RATIO_ERROR: max(ratios), SAMPLING_ERROR_MAX: max(largest)})
        return found | self.ranks.sum({SAMPLING_ERROR_MEAN: sum(sums) / max(1, batch.counts.own)})

    @property
    def _critic_config(self) -> ActorCriticConfig:
        """The hyperparameters of a critic, where there is one."""
        assert isinstance(self.config, ActorCriticConfig), "a critic has hyperparameters"
        return self.config

    def _trained(self, critic: Critic | None) -> list[nn.Parameter]:
        """Return the parameters of both networks."""
        return [*self.policy.parameters(), *([] if critic is None else critic.parameters())]

    def parts(self, batch: Experience) -> Iterator[Experience]:
        """Yield this rank's share of a minibatch in parts, on the policy's device; all ranks have as many parts.

        A rank without a group left for a part takes one whose tokens count for nothing: a sharded model needs every
        rank in each pass.
        """
        groups = torch.arange(len(batch)).view(-1, batch.group_size)
        own, largest = groups[self.ranks.share(len(groups))], self.ranks.largest_share(len(groups))
        for part in own.tensor_split(min(self.config.gradient_accumulation, largest)):
            rows = part.flatten()
            found = batch.part(rows) if len(rows) else batch.part(groups[0]).without_tokens_to_learn()
            yield found.to(self.policy.device)

    def policy_terms(
        self, part: Experience, counts: Counts, *, entropies: EntropyMode = "gradient", hidden: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the policy's part of the total loss, and its terms by name; of the sampling error, the sum."""
        config, learn, count = self.config, part.learn, counts.learn
        scores = self.policy.token_logprobs(part.texts, self.layout, entropies=entropies, hidden=hidden)
        logprobs, old_logprobs = scores.logprobs, part.old_logprobs
        total, own_terms = self.objective(logprobs, part, counts)
        largest, error = losses.sampling_error(logprobs, old_logprobs, part.own)
        terms = {
            "policy/loss": total,
            "policy/approx_kl": losses.approx_kl(logprobs, old_logprobs, part.own, count=counts.own),
            **own_terms,
            RATIO_ERROR: losses.ratio_error(logprobs, old_logprobs, learn),
            SAMPLING_ERROR_MAX: torch.tensor(largest),
            SAMPLING_ERROR_MEAN: torch.tensor(error),
        }
        if scores.entropy is not None:
            terms["policy/entropy"] = losses.entropy_bonus(scores.entropy, learn, count=count)
            total = total - config.ent_coef * terms["policy/entropy"]
        if part.targets is not None:
            target_logprobs = self.policy.plain_logprobs(part.targets)
            terms["target/loss"] = losses.nll_loss(target_logprobs, part.targets.is_token, count=counts.target)
            total = total + config.target_coef * terms["target/loss"]
        return total, terms

    def value_loss(self, part: Experience, counts: Counts, critic: Critic, *, hidden: Tensor | None = None) -> Tensor:
        """Return the critic's loss, before its weight `vf_coef`."""
        return losses.value_loss(
            critic(part.texts, hidden)[:, :-1],
            part.old_values,
            part.returns,
            part.learn_critic,
            value_clip_range=self._critic_config.value_clip_range,
            count=counts.learn_critic,
        )

    def _clip(self, critic: Critic | None, *, learns_policy: bool) -> Metrics:
        """Scale the gradients of both networks down to the maximum norm; return the norms before."""
        policy_parameters, limit = self.policy.parameters(), self.config.max_grad_norm
        if critic is None:
            return {"grad_norm/policy": clip_gradients(policy_parameters, limit)}
        critic_parameters = critic.parameters()
        if self._critic_config.joint_grad_norm and learns_policy:
            policy_norm = critic_norm = clip_gradients(policy_parameters + critic_parameters, limit)
        else:
            policy_norm = clip_gradients(policy_parameters, limit)
            critic_norm = clip_gradients(critic_parameters, limit)
        return {"grad_norm/policy": policy_norm, "grad_norm/critic": critic_norm}

    def _step(
        self,
        counts: Counts,
        critic: Critic | None,
        critic_optimizer: torch.optim.Optimizer | None,
        norms: Metrics,
        *,
        learns_policy: bool,
    ) -> Metrics:
        """Take one optimizer step of each network that has tokens to learn; return the norms, none without a step."""
        learns_critic = critic is not None and bool(counts.learn_critic)
        is_shared = critic is not None and critic.is_shared
        has_policy_tokens = bool(counts.learn or counts.target or (is_shared and learns_critic))
        if not (has_policy_tokens or learns_critic):
            return {}
        # A step with a gradient of zero is not the same as no step: the optimizer would move by its momentum.
        if has_policy_tokens and learns_policy:
            self.optimizer.step()
        if learns_critic and critic_optimizer is not None:
            critic_optimizer.step()
        return norms


def explained_by_regression(metrics: Metrics) -> Metrics:
    """Return R², the share of the mean squared target that a regression explains: 0 before its first step, 1 at best.

    It is about 0, not about the mean: the two texts of a pair have no order, and the loss has no constant.
    """
    target = metrics.get("regression/target", 0.0)
    return {"regression/r2": 1 - metrics["policy/loss"] / target} if target > 0 else {}


def loss_terms(metrics: Metrics) -> Metrics:
    """Return the losses among the metrics of a step."""
    return {name: value for name, value in metrics.items() if name.endswith("/loss")}
