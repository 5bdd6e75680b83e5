"""The update of the RL algorithms: credit assignment, then epochs of policy and value losses.

Advantages and objective are the config's. Algorithms without a critic have a config without one.

Which tokens count for which loss is written in the trajectories; who wrote them does not matter here.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.actors.references import ReferenceTokens, reference_texts
from tril_gym.agents.collection.baselines import BaselineTexts, check_restarts
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig
from tril_gym.agents.learners.credit import CreditAssignment, kl_of
from tril_gym.agents.learners.critic import Critic, ValueRecordingActor, check_critic, make_critic
from tril_gym.agents.learners.epochs import Epochs
from tril_gym.agents.learners.experience import Experience
from tril_gym.agents.learners.learner import Learner, Metrics
from tril_gym.agents.learners.nonfinite import NonFiniteError
from tril_gym.agents.learners.optimizer import adamw, load_optimizer_state, optimizer_state, set_learning_rate
from tril_gym.agents.learners.policy_config import PolicyConfig
from tril_gym.agents.learners.sampled_texts import sampled_texts
from tril_gym.functional.group_advantages import share_without_signal
from tril_gym.functional.importance import effective_sample_size, importance_weights
from tril_gym.functional.losses import sampling_error
from tril_gym.functional.masked import explained_variance
from tril_gym.functional.running import RunningStd
from tril_gym.functional.text_losses import optimal_value
from tril_gym.models.kernels import compile_bodies
from tril_gym.models.noise import checkpoint_gradients
from tril_gym.utils.profiler import Timer
from tril_gym.utils.ranks import ALONE, Ranks

log = logging.getLogger(__name__)
# Nats on average, in full and in low precision; more than rounding explains.
SAMPLING_ERROR = {False: 1e-3, True: 0.1}


class ActorCritic(Learner):
    """A policy with its critics, if it has any, its reference policy and its optimizers.

    Args:
        policy: trained in place.
        config: hyperparameters.
        layout: sizes of the environment.
    """

    def __init__(self, policy: LMPolicy, config: PolicyConfig, layout: TextLayout) -> None:
        instead = "use such an environment, or an algorithm that writes no other texts, such as ppo"
        if isinstance(config, ActorCriticConfig):
            check_critic(policy, config.critic)
            instead = 'use baseline="none"'
        if config.baseline_texts.baseline != "none":
            check_restarts(layout, f"baseline={config.baseline_texts.baseline!r}", instead=instead)
        if config.rollout_values[0]:
            check_restarts(layout, "a value by rollouts", instead=instead)
        self.policy, self.config, self.layout = policy, config, layout
        self.ranks: Ranks = ALONE
        self.optimizer, self.iteration = adamw(policy.parameters(), config), 0
        self.kl_controller = config.controller()
        self.reward_std = RunningStd()  # of the texts' total rewards, with `scale_rewards`
        self.references = ReferenceTokens(layout) if config.target_coef > 0 else None
        ref_policy = policy.frozen_copy()
        self.credit = CreditAssignment(policy, ref_policy, layout, config, advantages=config.advantages())
        self.epochs = Epochs(policy, self.optimizer, layout, config, objective=config.objective(layout))
        self._critics: dict[str, tuple[Critic, torch.optim.Optimizer]] = {}
        self.experience: Experience | None = None  # of the last update
        self.values: dict[int, float] = {}  # V* of examples, if their baseline is
        self._warned = False  # of the sampling error
        self.critic_updates: Counter[str] = Counter()  # by owner
        if config.gradient_checkpointing:
            checkpoint_gradients(policy.model)
        if config.compile:
            policy.language_model.compile()

    def join(self, ranks: Ranks) -> None:
        """Score and learn from a share of the texts in each process."""
        self.ranks = self.credit.ranks = self.epochs.ranks = ranks
        if ranks.shards:
            self._shard()
        if ranks.shards_optimizer:
            self.optimizer = self.epochs.optimizer = adamw(self.policy.parameters(), self.config, ranks=ranks)

    def _shard(self) -> None:
        """Let each process hold a part of the policy and the reference policy, and later of the critics."""
        if self.config.compile:
            raise ValueError("compile=True does not work with sharded models; leave either compile or the sharding out")
        block_by_block = self.ranks if self.ranks.writes_by_block else None
        self.policy.language_model.shard(block_by_block=block_by_block)
        self.ref_policy.language_model.shard(on=self.policy.language_model, block_by_block=block_by_block)
        self.optimizer = self.epochs.optimizer = adamw(self.policy.parameters(), self.config)

    @property
    def ref_policy(self) -> LMPolicy:
        """The frozen policy that the KL is measured to."""
        return self.credit.ref_policy

    @property
    def first_policy(self) -> LMPolicy | None:
        """The policy that training began with, None where the reference policy is renewed."""
        return self.ref_policy if self.config.keeps_reference else None

    @property
    def needs_references(self) -> bool:
        """Whether the loss has a term of references."""
        return self.config.target_coef > 0

    @property
    def baseline_texts(self) -> BaselineTexts:
        """The other texts of the config."""
        return self.config.baseline_texts

    @property
    def rollout_values(self) -> tuple[int, int]:
        """Number of texts that estimate the value of a state, and of tokens between such states."""
        return self.config.rollout_values

    @property
    def bootstraps(self) -> bool:
        """Whether there is a critic, from whose value a text that was cut off bootstraps."""
        return self.config.has_critic

    def baseline_values(self, examples: Tensor, rewards_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what is subtracted from the rewards of texts, (B,): a mean, or V*, once for each example."""
        beta = self.baseline_texts.value_beta
        if beta is None:
            return super().baseline_values(examples, rewards_of)
        names = examples.tolist()
        new = [row for row, name in enumerate(names) if name not in self.values and names.index(name) == row]
        if new:
            values = optimal_value(rewards_of(torch.tensor(new)), beta=beta).tolist()
            self.values.update(zip((names[row] for row in new), values, strict=True))
        return torch.tensor([self.values[name] for name in names], dtype=torch.float64)

    def critic(self, critic_owner: str, *, warm_start: bool = False) -> tuple[Critic, torch.optim.Optimizer]:
        """Return the critic of the policy or of the guide, and its optimizer.

        Created at first use from the reference policy's weights or, with `warm_start`, from the other critic's.

        Args:
            critic_owner: "policy" or "guide".
            warm_start: whether a new critic takes the other one's weights.
        """
        if critic_owner not in self._critics:
            kind = self._critic_config.critic
            critic = make_critic(self.policy if kind == "shared" else self.ref_policy, kind)
            if self.config.gradient_checkpointing and not critic.is_shared:
                checkpoint_gradients(critic.model)
            if self.config.compile and not critic.is_shared:
                compile_bodies(critic.model)
            if warm_start and self._critics:
                ((other, _),) = self._critics.values()
                critic.load_state_dict(other.state_dict())
            if self.ranks.shards:
                critic.shard()
            rate = self._critic_learning_rate
            optimizer = adamw(critic.parameters(), self.config, learning_rate=rate, ranks=self.ranks)
            self._critics[critic_owner] = critic, optimizer
        return self._critics[critic_owner]

    def guide_values(self, trajectories: Trajectories, ends: Tensor) -> Tensor:
        """Return V^g of texts before their tokens `ends`, (B,) -> (B,); see `BestOf`."""
        return self.credit.values_before(trajectories, self.critic("guide")[0], ends)

    @property
    def _critic_config(self) -> ActorCriticConfig:
        assert isinstance(self.config, ActorCriticConfig), "a critic has hyperparameters"
        return self.config

    @property
    def _critic_learning_rate(self) -> float:
        return self._critic_config.critic_learning_rate or self.config.learning_rate

    def collection_plan(self, plan: Plan) -> Plan:
        """Return the same plan, with a rollout actor that records the shared critic's values during generation.

        Only where these values are the ones that `update` would compute.
        """
        writes = plan.rollout is self.policy and plan.critic == "policy" and plan.learn_on == "rollout"
        if (
            not isinstance(self.config, ActorCriticConfig)
            or self.config.critic != "shared"
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

        While a critic warms up, neither the policy nor the KL coefficient moves.

        Args:
            trajectories: finished texts.
            plan: the plan that they were written by; says which critic learns.
            generator: draws references and shuffles the minibatches.
            timer: counts seconds as "reference", "values" and "learn".
            learns_policy: whether the policy takes optimizer steps once the critic has warmed up.

        Raises:
            NonFiniteError: the KL, a loss or a gradient norm is not finite; see `StepGuard`.
        """
        set_learning_rate(self.optimizer, self.config.learning_rate * self.config.learning_rate_factor(self.iteration))
        critic, critic_optimizer = self._critic_of(plan)
        if isinstance(self.config, ActorCriticConfig):
            learns_policy &= self.critic_updates[plan.critic] >= self.config.critic_warmup
        sampled = trajectories.old_logprobs
        trajectories = self.credit.add_reference_and_values(trajectories, critic, timer)
        trajectories, scale = self._scale_rewards(trajectories)
        distances, kl_coef = self._kl(trajectories, generator), self.kl_controller.coef
        groups = group_metrics(trajectories)
        learned = self.config.select(trajectories, generator)
        experience = self.credit.experience(learned, kl_coef=kl_coef)
        experience, corrected = self._correct_sampling(experience, trajectories, sampled)
        if self.references is not None and len(learned):
            experience = replace(experience, targets=reference_texts(learned, self.references, generator))
        self.experience = experience
        with timer.time("learn"):
            steps = self.epochs.run(experience, critic, critic_optimizer, generator, learns_policy=learns_policy)

        if learns_policy:
            self.kl_controller.update(distances["kl"], len(trajectories))
        self.iteration += 1
        if self.config.renews_reference(self.iteration):
            self.credit.renew_reference()
        steps |= self._sampling_error(trajectories, sampled, steps)
        metrics = distances | {"kl_coef": kl_coef} | scale | groups | corrected
        return metrics | (steps if critic is None else self._critic_metrics(plan, experience, steps))

    def _correct_sampling(
        self, experience: Experience, trajectories: Trajectories, sampled: Tensor
    ) -> tuple[Experience, Metrics]:
        """Weight the policy's loss by the ratio of its probabilities to those at sampling, if configured."""
        if not isinstance(self.config, ActorCriticConfig):
            return experience, {}
        level = self.config.sampling_correction
        if level is None or level == "none":
            return experience, {}
        logprobs, wrote = trajectories.old_logprobs, trajectories.wrote
        weights = importance_weights(logprobs, sampled, wrote, level=level, cap=self.config.sampling_cap)
        share = effective_sample_size(weights, wrote)
        weights = weights.to(experience.advantages.dtype)
        return replace(experience, weights=weights), {"policy/importance_share": float(share)}

    def _kl(self, trajectories: Trajectories, generator: torch.Generator) -> Metrics:
        """Return the KL to the reference policy in nats per text and per token, on texts that the policy wrote."""
        if self.config.has_given_texts:
            trajectories = sampled_texts(self.policy, self.ref_policy, trajectories, self.layout, generator)
        trajectories = trajectories.own
        kl = finite_kl(trajectories)
        return {"kl": kl, "kl_per_token": kl * len(trajectories) / max(1, int(trajectories.wrote.sum()))}

    def _critic_of(self, plan: Plan) -> tuple[Critic | None, torch.optim.Optimizer | None]:
        """Return the critic that learns from a plan's texts, and its optimizer, if the config has critics."""
        if not self.config.has_critic:
            return None, None
        critic, optimizer = self.critic(plan.critic, warm_start=plan.warm_start_critic)
        factor = self.config.learning_rate_factor(self.iteration)
        set_learning_rate(optimizer, self._critic_learning_rate * factor)
        return critic, optimizer

    def _critic_metrics(self, plan: Plan, experience: Experience, steps: Metrics) -> Metrics:
        """Count an update of a critic, and return the metrics with the critic's own name."""
        self.critic_updates[plan.critic] += 1
        name = "critic" if plan.critic == "policy" else "guide_critic"
        explained = explained_variance(experience.old_values, experience.returns, experience.learn_critic)
        found = {f"{name}/explained_variance": float(explained)}
        return found | {metric.replace("critic/", f"{name}/"): value for metric, value in steps.items()}

    def _sampling_error(self, trajectories: Trajectories, sampled: Tensor, steps: Metrics) -> Metrics:
        """Return how far scoring is from sampling, in nats, and warn once where that is more than rounding.

        Where the texts were scored again, all are compared; else those of the first minibatch. Texts of a copy of the
        policy are compared with its scores.
        """
        if self.config.has_given_texts:
            return {}
        low, scored = self.credit.is_low_precision, trajectories.writer_logprobs
        if scored is None and self.credit.scores_again:
            scored = trajectories.old_logprobs
        if scored is None and "policy/sampling_error_mean" not in steps:  # the first step was skipped
            return {}
        if scored is not None:
            known = trajectories.wrote & ~sampled.isnan() & ~scored.isnan()
            largest, total = sampling_error(scored, sampled, known)
            mean = total / max(1, int(known.sum()))
        else:
            largest, mean = steps["policy/sampling_error_max"], steps["policy/sampling_error_mean"]
        is_corrected = self.config.scores_again and trajectories.writer_logprobs is None
        if mean > SAMPLING_ERROR[low] and not self._warned and not is_corrected:
            self._warned = True
            log.warning(
                "log-probabilities at sampling differ from those at scoring by %.2g nats on average; rounding explains"
                " at most %g, so the update is off-policy",
                mean,
                SAMPLING_ERROR[low],
            )
        return {"policy/sampling_error_max": largest, "policy/sampling_error_mean": mean}

    def _scale_rewards(self, trajectories: Trajectories) -> tuple[Trajectories, Metrics]:
        """Divide the rewards by the standard deviation of all texts' totals so far, these included, if configured.

        They stay as they are where that is 0: all texts were rewarded alike. Values by rollouts, which are means of
        rewards, are divided too; those of a critic are in its units already.
        """
        if not self.config.scales_rewards:
            return trajectories, {}
        self.reward_std.update(trajectories.total_rewards)
        scale = self.reward_std.std or 1.0
        scaled = replace(trajectories, rewards=trajectories.rewards / scale)
        if trajectories.values is not None and self.config.rollout_values[0]:
            scaled = replace(scaled, values=trajectories.values / scale)
        return scaled, {"reward/scale": scale}

    def _decoding(self) -> dict[str, Any]:
        """Return what decides, beside its weights, how probable a text is under the reference policy."""
        ends = {"min_new_tokens": self.layout.min_new_tokens, "eos_token_ids": list(self.layout.eos_token_ids)}
        return asdict(self.config.decoding()) | ends

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the policy's own weights."""
        return {
            "optimizer": optimizer_state(self.optimizer),
            "schedule": {"iteration": self.iteration},
            "ref_policy": self.ref_policy.language_model.state_dict(),
            "kl": self.kl_controller.state_dict(),
            "guard": self.epochs.guard.state_dict(),
            "reward_std": self.reward_std.state_dict(),
            "values": dict(self.values),
            "values_of": asdict(self.baseline_texts),
            "decoding": self._decoding(),
            "known": dict(self.credit.known),  # scored again, they would differ by rounding
            "critics": {
                critic_owner: {
                    "critic": critic.state_dict(),
                    "optimizer": optimizer_state(optimizer),
                    "updates": self.critic_updates[critic_owner],
                }
                for critic_owner, (critic, optimizer) in self._critics.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.ref_policy.language_model.load_state_dict(state["ref_policy"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.iteration = state["schedule"]["iteration"]
        self.kl_controller.load_state_dict(state["kl"])
        self.epochs.guard.load_state_dict(state["guard"])
        self.reward_std.load_state_dict(state["reward_std"])
        # Both are of the reference policy's distribution, which a change of the decoding or the environment changes.
        is_same = state.get("decoding", self._decoding()) == self._decoding()
        is_known = state.get("values_of", asdict(self.baseline_texts)) == asdict(self.baseline_texts)
        self.values = dict(state.get("values", {})) if is_known and is_same else {}
        known = state.get("known", {}) if is_same else {}
        self.credit.known = {key: scores.cpu() for key, scores in known.items()}
        for critic_owner, saved in state["critics"].items():
            critic, optimizer = self.critic(critic_owner)
            critic.load_state_dict(saved["critic"])
            load_optimizer_state(optimizer, saved["optimizer"])
            self.critic_updates[critic_owner] = saved["updates"]


def group_metrics(trajectories: Trajectories) -> Metrics:
    """Return the share of groups whose texts were all rewarded alike; nothing without groups."""
    if trajectories.group is None or trajectories.group_size == 1:
        return {}
    return {"group/zero_variance": share_without_signal(trajectories.total_rewards, trajectories.group)}


def finite_kl(trajectories: Trajectories) -> float:
    """Return the KL to the reference policy in nats per text; raise `NonFiniteError` where it is not finite."""
    kl = kl_of(trajectories)
    if not math.isfinite(kl):
        raise NonFiniteError(f"the KL to the reference policy is {kl} before the update; no step has been taken")
    return kl
