"""The actor-critic update of the RL algorithms: credit assignment, then epochs of clipped policy and value losses.

Which tokens count for which loss is written in the trajectories; who wrote them does not matter here.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.actors.references import ReferenceTokens, reference_texts
from tril_gym.agents.collection.baselines import Baseline, check_baseline
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig
from tril_gym.agents.learners.credit import CreditAssignment, gae_advantages, kl_of
from tril_gym.agents.learners.critic import Critic, ValueRecordingActor, check_critic, make_critic
from tril_gym.agents.learners.epochs import Epochs
from tril_gym.agents.learners.experience import Experience
from tril_gym.agents.learners.learner import Learner, Metrics
from tril_gym.agents.learners.nonfinite import NonFiniteError
from tril_gym.agents.learners.optimizer import adamw, set_learning_rate
from tril_gym.functional.importance import effective_sample_size, importance_weights
from tril_gym.functional.losses import policy_loss, sampling_error
from tril_gym.functional.masked import explained_variance, select
from tril_gym.functional.running import RunningStd
from tril_gym.models.kernels import compile_bodies
from tril_gym.models.noise import checkpoint_gradients
from tril_gym.utils.profiler import Timer
from tril_gym.utils.ranks import Ranks

log = logging.getLogger(__name__)
# Nats on average, in full and in low precision; more than rounding explains.
SAMPLING_ERROR = {False: 1e-3, True: 0.1}


class ActorCritic(Learner):
    """A policy with its critics, its reference policy and its optimizers.

    Args:
        policy: trained in place.
        config: hyperparameters.
        layout: sizes of the environment.
    """

    has_critic = True

    def __init__(self, policy: LMPolicy, config: ActorCriticConfig, layout: TextLayout) -> None:
        check_critic(policy, config.critic)
        check_baseline(layout, config.baseline)
        self.policy, self.config, self.layout = policy, config, layout
        self.optimizer, self.iteration = adamw(policy.parameters(), config), 0
        self.kl_controller = config.controller()
        self.reward_std = RunningStd()  # of the texts' total rewards, with `scale_rewards`
        self.references = ReferenceTokens(layout) if config.target_coef > 0 else None
        self.credit = CreditAssignment(
            policy,
            policy.frozen_copy(),
            layout,
            config,
            advantages=partial(gae_advantages, gamma=config.gamma, gae_lambda=config.gae_lambda),
        )
        self.epochs = Epochs(
            policy, self.optimizer, layout, config, policy_loss=partial(policy_loss, clip_range=config.clip_range)
        )
        self._critics: dict[str, tuple[Critic, torch.optim.Optimizer]] = {}
        self._warned = False  # of the sampling error
        self.critic_updates: Counter[str] = Counter()  # by owner
        if config.gradient_checkpointing:
            checkpoint_gradients(policy.model)
        if config.compile:
            policy.language_model.compile()

    def join(self, ranks: Ranks) -> None:
        """Score and learn from a share of the texts in each process."""
        self.credit.ranks = self.epochs.ranks = ranks

    @property
    def ref_policy(self) -> LMPolicy:
        """The policy as it was before training."""
        return self.credit.ref_policy

    @property
    def needs_references(self) -> bool:
        """Whether the loss has a term of references."""
        return self.config.target_coef > 0

    @property
    def baseline(self) -> Baseline:
        """The baseline of the config."""
        return self.config.baseline

    def critic(self, critic_owner: str, *, warm_start: bool = False) -> tuple[Critic, torch.optim.Optimizer]:
        """Return the critic of the policy or of the guide, and its optimizer.

        Created at first use from the reference policy's weights or, with `warm_start`, from the other critic's.

        Args:
            critic_owner: "policy" or "guide".
            warm_start: whether a new critic takes the other one's weights.
        """
        if critic_owner not in self._critics:
            critic = make_critic(self.policy if self.config.critic == "shared" else self.ref_policy, self.config.critic)
            if self.config.gradient_checkpointing and not critic.is_shared:
                checkpoint_gradients(critic.model)
            if self.config.compile and not critic.is_shared:
                compile_bodies(critic.model)
            if warm_start and self._critics:
                ((other, _),) = self._critics.values()
                critic.load_state_dict(other.state_dict())
            optimizer = adamw(critic.parameters(), self.config, learning_rate=self._critic_learning_rate)
            self._critics[critic_owner] = critic, optimizer
        return self._critics[critic_owner]

    @property
    def _critic_learning_rate(self) -> float:
        return self.config.critic_learning_rate or self.config.learning_rate

    def collection_plan(self, plan: Plan) -> Plan:
        """Return the same plan, with a rollout actor that records the shared critic's values during generation.

        Only where these values are the ones that `update` would compute.
        """
        writes = plan.rollout is self.policy and plan.critic == "policy" and plan.learn_on == "rollout"
        if (
            self.config.critic != "shared"
            or not writes
            or self.credit.is_low_precision
            or self.policy.language_model.head is None
        ):
            return plan
        critic, _ = self.critic("policy", warm_start=plan.warm_start_critic)
        return replace(plan, rollout=ValueRecordingActor(self.policy, critic))

    def update(
        self,
        trajectories: Trajectories,
        plan: Plan,
        *,
        generator: torch.Generator,
        timer: Timer,
        learns_policy: bool = True,
    ) -> Metrics:
        """Learn from the texts of one iteration.

        While the critic warms up, neither the policy nor the KL coefficient moves.

        Args:
            trajectories: finished texts.
            plan: the plan that they were written by; says which critic learns.
            generator: draws references and shuffles the minibatches.
            timer: counts seconds as "reference", "values" and "learn".
            learns_policy: whether the policy takes optimizer steps once the critic has warmed up.

        Raises:
            NonFiniteError: the KL, a loss or a gradient norm is not finite; see `StepGuard`.
        """
        critic, critic_optimizer = self.critic(plan.critic, warm_start=plan.warm_start_critic)
        name = "critic" if plan.critic == "policy" else "guide_critic"
        learns_policy &= self.critic_updates[plan.critic] >= self.config.critic_warmup
        factor = self.config.learning_rate_factor(self.iteration)
        set_learning_rate(self.optimizer, self.config.learning_rate * factor)
        set_learning_rate(critic_optimizer, self._critic_learning_rate * factor)

        sampled = trajectories.old_logprobs
        trajectories = self.credit.add_reference_and_values(trajectories, critic, timer)
        trajectories, scale = self._scale_rewards(trajectories)
        kl, kl_coef = finite_kl(trajectories), self.kl_controller.coef
        experience = self.credit.experience(trajectories, kl_coef=kl_coef)
        experience, corrected = self._correct_sampling(experience, trajectories, sampled)
        if self.references is not None:
            experience = replace(experience, targets=reference_texts(trajectories, self.references, generator))
        explained = explained_variance(experience.old_values, experience.returns, experience.learn_critic)
        with timer.time("learn"):
            steps = self.epochs.run(experience, critic, critic_optimizer, generator, learns_policy=learns_policy)

        if learns_policy:
            self.kl_controller.update(kl, len(trajectories))
        self.critic_updates[plan.critic] += 1
        self.iteration += 1
        steps |= self._sampling_error(trajectories, sampled, steps)
        per_token = kl * len(trajectories) / max(1, int(trajectories.wrote.sum()))
        metrics = {"kl": kl, "kl_per_token": per_token, "kl_coef": kl_coef}
        metrics[f"{name}/explained_variance"] = float(explained)
        return (
            metrics
            | scale
            | corrected
            | {metric.replace("critic/", f"{name}/"): value for metric, value in steps.items()}
        )

    def _correct_sampling(
        self, experience: Experience, trajectories: Trajectories, sampled: Tensor
    ) -> tuple[Experience, Metrics]:
        """Weight the advantages by the ratio of the policy's probabilities to those at sampling, if configured."""
        level = self.config.sampling_correction
        if level == "none":
            return experience, {}
        logprobs, wrote = trajectories.old_logprobs, trajectories.wrote
        weights = importance_weights(logprobs, sampled, wrote, level=level, cap=self.config.sampling_cap)
        share = effective_sample_size(weights, wrote)
        advantages = experience.advantages * weights.to(experience.advantages.dtype)
        return replace(experience, advantages=advantages), {"policy/importance_share": float(share)}

    def _sampling_error(self, trajectories: Trajectories, sampled: Tensor, steps: Metrics) -> Metrics:
        """Return how far scoring is from sampling, in nats, and warn once where that is more than rounding.

        Where the texts were scored again, all are compared; else those of the first minibatch.
        """
        low, again = self.credit.is_low_precision, self.credit.scores_again
        if not again and "policy/sampling_error_mean" not in steps:  # the first step was skipped
            return {}
        if again:
            known = trajectories.wrote & ~sampled.isnan()
            largest, total = sampling_error(trajectories.old_logprobs, sampled, known)
            mean = total / max(1, int(known.sum()))
        else:
            largest, mean = steps["policy/sampling_error_max"], steps["policy/sampling_error_mean"]
        is_corrected = self.config.sampling_correction != "none"
        if mean > SAMPLING_ERROR[low] and not self._warned and not is_corrected:
            self._warned = True
            log.warning(
                "log-probabilities at sampling differ from those at scoring by %.2g nats on average; more than %g is"
                " more than rounding, so the update does not learn from the distribution that was sampled",
                mean,
                SAMPLING_ERROR[low],
            )
        return {"policy/sampling_error_max": largest, "policy/sampling_error_mean": mean}

    def _scale_rewards(self, trajectories: Trajectories) -> tuple[Trajectories, Metrics]:
        """Divide the rewards by the standard deviation of all texts' totals so far, these included, if configured.

        They stay as they are where that is 0: all texts were rewarded alike.
        """
        if not self.config.scale_rewards:
            return trajectories, {}
        self.reward_std.update(select(trajectories.rewards, trajectories.is_token).sum(1))
        scale = self.reward_std.std or 1.0
        return replace(trajectories, rewards=trajectories.rewards / scale), {"reward/scale": scale}

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the policy's own weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"iteration": self.iteration},
            "ref_policy": self.ref_policy.language_model.state_dict(),
            "kl": self.kl_controller.state_dict(),
            "guard": self.epochs.guard.state_dict(),
            "reward_std": self.reward_std.state_dict(),
            "critics": {
                critic_owner: {
                    "critic": critic.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "updates": self.critic_updates[critic_owner],
                }
                for critic_owner, (critic, optimizer) in self._critics.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.ref_policy.language_model.load_state_dict(state["ref_policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration = state["schedule"]["iteration"]
        self.kl_controller.load_state_dict(state["kl"])
        self.epochs.guard.load_state_dict(state["guard"])
        self.reward_std.load_state_dict(state["reward_std"])
        for critic_owner, saved in state["critics"].items():
            critic, optimizer = self.critic(critic_owner)
            critic.load_state_dict(saved["critic"])
            optimizer.load_state_dict(saved["optimizer"])
            self.critic_updates[critic_owner] = saved["updates"]


def finite_kl(trajectories: Trajectories) -> float:
    """Return the KL to the reference policy in nats per text; raise `NonFiniteError` where it is not finite."""
    kl = kl_of(trajectories)
    if not math.isfinite(kl):
        raise NonFiniteError(f"the KL to the reference policy is {kl} before the update; no step has been taken")
    return kl
