"""The clipped actor-critic update that the RL agents share.

From finished trajectories: price the drift from the reference policy, estimate advantages with the critic, then go
over the texts a few times in minibatches and move policy and critic. Which tokens count for which loss is written in
the trajectories; who wrote them does not matter here.

B texts, T new tokens.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.actors.references import ReferenceTokens, reference_texts
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories, minibatches
from tril_gym.agents.learners.critic import Critic, ValueRecordingActor, check_critic, make_critic, value_after
from tril_gym.agents.learners.experience import Counts, Experience
from tril_gym.agents.learners.optimizer import (
    Metrics,
    OptimizerConfig,
    Schedule,
    adamw,
    autocast_of,
    checkpoint_gradients,
    clip_gradients,
)
from tril_gym.functional import losses
from tril_gym.functional.kl import KLController, kl_controller, kl_terms, nats_per_text
from tril_gym.functional.masked import explained_variance, masked_whiten
from tril_gym.functional.returns import gae, kl_penalised_rewards
from tril_gym.functional.sampling import Decoding
from tril_gym.models.kernels import compile_bodies
from tril_gym.models.lm_head import Entropies
from tril_gym.models.texts import Texts
from tril_gym.utils.config_fields import config_field
from tril_gym.utils.profiler import Timer


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig(OptimizerConfig):
    """Every number that the shared update reads. Names and defaults live here and nowhere else."""

    critic_learning_rate: float | None = config_field(
        None, "AdamW step size of the critic; default: the policy's", above=0
    )
    critic: Literal["separate", "adapter", "shared"] | None = config_field(
        None,
        "a network of its own, an adapter on the policy's, or its own layers; default: separate, or with LoRA adapter",
    )
    gamma: float = config_field(1.0, "discount per token", minimum=0, maximum=1)
    gae_lambda: float = config_field(
        0.95, "λ of the advantages: 0 trusts the critic after one token, 1 only at the end", minimum=0, maximum=1
    )
    clip_range: float = config_field(0.2, "half-width ε of the ratio interval [1−ε, 1+ε]", above=0, below=1)
    value_clip_range: float | None = config_field(
        None, "how far a value may move per iteration, in reward; default: any", above=0
    )
    vf_coef: float = config_field(0.5, "weight of the value loss", minimum=0)
    ent_coef: float = config_field(0.0, "weight of the entropy bonus, reward per nat", minimum=0)
    target_coef: float = config_field(0.0, "weight of the likelihood of a reference beside the reward", minimum=0)
    group_by_length: bool | None = config_field(
        None, "minibatches of texts of like length; default: only where texts of any length would need padding"
    )
    compile: bool = config_field(
        False, "let torch compile the networks: each size of a batch takes it seconds to minutes, once"
    )
    normalize_advantages: bool = config_field(False, "whiten advantages over the learned tokens")
    kl_coef: float = config_field(0.001, "reward lost per nat of KL to the reference policy", minimum=0, group="KL")
    kl_estimator: Literal["k1", "k2", "k3"] = config_field("k1", "estimator of the KL inside the reward", group="KL")
    kl_controller: Literal["fixed", "adaptive", "proportional", "pid"] = config_field(
        "fixed", "how kl_coef follows kl_target", group="KL"
    )
    kl_target: float | None = config_field(
        None, "KL to hold, nats per text; for the controllers that are not fixed", above=0, group="KL"
    )
    kl_horizon: float = config_field(
        10_000.0, "episodes over which the adaptive controller reacts", above=0, group="KL"
    )
    kl_gain: float = config_field(
        1e-4, "K_p of the proportional and the PID controller, reward per nat", minimum=0, group="KL"
    )
    kl_integral_gain: float = config_field(1e-4, "K_i of the PID controller, reward per nat", minimum=0, group="KL")
    kl_derivative_gain: float = config_field(0.0, "K_d of the PID controller, reward per nat", minimum=0, group="KL")
    target_kl: float | None = config_field(
        None, "end the epochs early at 1.5 times so many nats per token; default: never", above=0
    )
    joint_grad_norm: bool = config_field(False, "clip one norm over policy and critic, not one each")
    temperature: float = config_field(
        1.0, "of the policy's distribution, in sampling and scoring alike", above=0, group="policy"
    )
    top_k: int | None = config_field(
        None,
        "cut the policy's distribution to its k best tokens; only to reproduce old settings",
        minimum=1,
        group="policy",
    )
    top_p: float | None = config_field(
        None,
        "cut the policy's distribution to its nucleus; only to reproduce old settings",
        above=0,
        maximum=1,
        group="policy",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoding().truncates:
            warnings.warn(
                f"top_k={self.top_k} and top_p={self.top_p} cut the policy's own distribution, whose KL to a reference"
                " with another cut is infinite; leave both out, unless you reproduce old settings",
                stacklevel=3,
            )
        self.controller()

    def decoding(self) -> Decoding:
        """The policy's distribution."""
        return Decoding(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

    def controller(self) -> KLController:
        """What sets the price of the KL, at its beginning."""
        gains = (self.kl_gain, self.kl_integral_gain, self.kl_derivative_gain)
        return kl_controller(
            self.kl_controller, coef=self.kl_coef, target=self.kl_target, horizon=self.kl_horizon, gains=gains
        )


class ActorCritic:
    """A policy with its critics, its reference and its optimizers.

    Args:
        policy: is trained in place.
        config: the numbers.
        layout: of the environment.
    """

    def __init__(self, policy: LMPolicy, config: ActorCriticConfig, layout: TextLayout) -> None:
        check_critic(policy, config.critic)
        self.policy, self.config, self.layout = policy, config, layout
        self.ref_policy = policy.frozen_copy()
        self.optimizer = adamw(policy.parameters(), config)
        self.schedule, self.kl = Schedule(config), config.controller()
        self.autocast = autocast_of(config, policy.device)
        self.references = ReferenceTokens(layout) if config.target_coef > 0 else None
        self._critics: dict[str, tuple[Critic, torch.optim.Optimizer]] = {}
        if config.gradient_checkpointing:
            checkpoint_gradients(policy.model)
        if config.compile:
            policy.compile()

    @property
    def needs_references(self) -> bool:
        """Whether the losses have one that reads references."""
        return self.config.target_coef > 0

    def critic(self, critic_owner: str, *, warm_start: bool = False) -> tuple[Critic, torch.optim.Optimizer]:
        """The critic of the policy or of the guide, and its optimizer.

        Created at first use from the reference policy's weights or, with `warm_start`, from the other critic's.
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
            self._critics[critic_owner] = (
                critic,
                adamw(critic.parameters(), self.config, learning_rate=self._critic_rate),
            )
        return self._critics[critic_owner]

    @property
    def _critic_rate(self) -> float:
        return self.config.critic_learning_rate or self.config.learning_rate

    def writing(self, plan: Plan) -> Plan:
        """A plan under which the values of a shared critic are kept from writing, where they would be the same."""
        is_policy = plan.rollout is self.policy and plan.critic == "policy" and plan.learn_on == "rollout"
        if self.config.critic != "shared" or not is_policy or self.is_low_precision or self.policy.head is None:
            return plan
        return replace(
            plan, rollout=ValueRecordingActor(self.policy, self.critic("policy", warm_start=plan.warm_start_critic)[0])
        )

    @property
    def is_low_precision(self) -> bool:
        """Whether rounding differs between a cached pass and a whole one by more than a ratio may err."""
        half = next(self.policy.model.parameters()).dtype in (torch.float16, torch.bfloat16)
        return half or self.config.mixed_precision != "no"

    def update(self, trajectories: Trajectories, plan: Plan, *, generator: torch.Generator, timer: Timer) -> Metrics:
        """Learn from an iteration's texts.

        Args:
            trajectories: finished texts.
            plan: how they were written; says whose critic learns.
            generator: draws references and shuffles the minibatches.
            timer: counts seconds as "reference", "values" and "learn".
        """
        critic, critic_optimizer = self.critic(plan.critic, warm_start=plan.warm_start_critic)
        name = "critic" if plan.critic == "policy" else "guide_critic"
        self.schedule.apply(self.optimizer, self.config.learning_rate)
        self.schedule.apply(critic_optimizer, self._critic_rate)
        trajectories = self.add_reference_and_values(trajectories, critic, timer)
        kl, experience = self._kl(trajectories), self.experience(trajectories)
        if self.references is not None:
            experience = replace(experience, targets=reference_texts(trajectories, self.references, generator))
        metrics = {
            "kl": kl,
            "kl_coef": self.kl.coef,
            f"{name}/explained_variance": float(
                explained_variance(experience.old_values, experience.returns, experience.learn_critic)
            ),
        }
        with timer.time("learn"):
            steps = self._epochs(experience, critic, critic_optimizer, generator)
        self.kl.update(kl, len(trajectories))
        self.schedule.advance()
        return metrics | {figure.replace("critic/", f"{name}/"): value for figure, value in steps.items()}

    @torch.no_grad()
    def add_reference_and_values(
        self, trajectories: Trajectories, critic: Critic, timer: Timer | None = None
    ) -> Trajectories:
        """Add the reference's log-probabilities, and the critic's values where writing has not kept them."""
        timer, every = timer or Timer(), torch.arange(len(trajectories))
        # Without gradients no activations are kept: more texts fit, and share rows with less padding.
        size = 4 * self.config.minibatch_size

        def by_parts(function: Callable[[Texts], Tensor], rows: Tensor = every) -> Tensor:
            with self.autocast():
                return torch.cat([function(trajectories.texts[part]).cpu() for part in rows.split(size)])

        def scored_by(policy: LMPolicy) -> Tensor:
            return by_parts(lambda texts: policy.score(texts, self.layout).logprobs)

        old_logprobs = scored_by(self.policy).double() if self.is_low_precision else trajectories.old_logprobs
        with timer.time("reference"):
            ref_logprobs = scored_by(self.ref_policy)
        with timer.time("values"):
            values = by_parts(critic) if trajectories.values is None else trajectories.values
            cut_off = trajectories.is_cut_off.nonzero().squeeze(1)
            if trajectories.values is not None and len(cut_off):  # nobody has read their last tokens
                values = values.index_copy(0, cut_off, by_parts(critic, cut_off).to(values.dtype))
        return replace(trajectories, ref_logprobs=ref_logprobs, values=values, old_logprobs=old_logprobs)

    def experience(self, trajectories: Trajectories) -> Experience:
        """Penalised rewards, advantages and returns of annotated trajectories."""
        ref_logprobs, values = trajectories.ref_logprobs, trajectories.values
        assert ref_logprobs is not None, "add_reference_and_values first"
        assert values is not None, "add_reference_and_values first"
        terms = kl_terms(trajectories.old_logprobs, ref_logprobs.double(), estimator=self.config.kl_estimator)
        rewards = kl_penalised_rewards(trajectories.rewards, terms, trajectories.wrote, kl_coef=self.kl.coef)
        after = value_after(values, trajectories.lengths)
        advantages, returns = gae(
            rewards,
            values[:, :-1],
            torch.where(trajectories.is_cut_off, after, torch.zeros_like(after)).double(),
            trajectories.is_token,
            gamma=self.config.gamma,
            gae_lambda=self.config.gae_lambda,
        )
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

    def _kl(self, trajectories: Trajectories) -> float:
        assert trajectories.ref_logprobs is not None, "add_reference_and_values first"
        old, ref = trajectories.old_logprobs, trajectories.ref_logprobs.double()
        return float(nats_per_text(old, ref, trajectories.wrote))

    def _epochs(
        self,
        experience: Experience,
        critic: Critic,
        critic_optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> Metrics:
        means: defaultdict[str, list[float]] = defaultdict(list)
        size, epochs = self.config.minibatch_size, self.config.epochs
        similar = self.config.group_by_length
        if similar is None:
            similar = not self.policy.can_pack
        lengths = experience.texts.lengths if similar else None
        rows_of_steps = minibatches(len(experience), epochs=epochs, size=size, generator=generator, lengths=lengths)
        for step, rows in enumerate(rows_of_steps):
            batch = experience.part(rows)
            # Where short texts meet short ones, a mean of their own would weigh their tokens more than others'.
            counts = batch.counts if lengths is None else experience.counts.share(len(rows), len(experience))
            # Where nobody learns from it, the entropy is only shown: the first epoch's will do.
            shown: Entropies = "numbers" if step * size < len(experience) else "none"
            entropies: Entropies = "gradient" if self.config.ent_coef > 0 else shown
            figures = self.gradients(batch, critic, counts, entropies=entropies)
            error = figures.pop("policy/ratio_error")
            if step == 0:
                figures["policy/ratio_error"] = error
            target_kl = self.config.target_kl
            moved = figures["policy/approx_kl"] * counts.learn / max(1, batch.counts.learn)  # of these tokens alone
            kl_exceeded = target_kl is not None and moved > 1.5 * target_kl
            if not kl_exceeded:
                figures |= self._step(batch.counts, critic, critic_optimizer)
            for name, value in figures.items():  # those that end the epochs, too: they say why
                means[name].append(value)
            if kl_exceeded:
                break
        return {name: sum(values) / len(values) for name, values in means.items()}

    def gradients(
        self, batch: Experience, critic: Critic, counts: Counts | None = None, *, entropies: Entropies = "gradient"
    ) -> Metrics:
        """Leave the gradients of a minibatch's losses in policy and critic; returns the losses' parts as numbers.

        Computed in `gradient_accumulation` parts, each with the counts of the whole, so that they add up to it.

        Args:
            batch: the minibatch.
            critic: whose values it learns from.
            counts: what the losses are divided by; by default the minibatch's own tokens.
            entropies: whether they are computed.
        """
        counts = counts or batch.counts
        for parameter in (*self.policy.parameters(), *critic.parameters()):
            parameter.grad = None
        figures: defaultdict[str, float] = defaultdict(float)
        errors = []
        for rows in torch.arange(len(batch)).tensor_split(min(self.config.gradient_accumulation, len(batch))):
            part = batch.part(rows).to(self.policy.device)
            with self.autocast():
                hidden = self.policy.hidden(part.texts) if critic.is_shared else None
                loss, found = self.policy_loss(part, counts, entropies=entropies, hidden=hidden)
            if not critic.is_shared:  # one after the other: one network's activations at a time stand in memory
                loss.backward()
                loss = torch.zeros_like(loss)
            with self.autocast():
                value = self.value_loss(part, counts, critic, hidden=hidden)
            (loss + self.config.vf_coef * value).backward()
            errors.append(float(found.pop("policy/ratio_error")))
            for name, figure in (found | {"critic/loss": value}).items():
                figures[name] += float(figure.detach())
        return figures | {"policy/ratio_error": max(errors)}

    def policy_loss(
        self, part: Experience, counts: Counts, *, entropies: Entropies = "gradient", hidden: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy's share of the total loss, and what it is made of."""
        config = self.config
        scores = self.policy.score(part.texts, self.layout, entropies=entropies, hidden=hidden)
        ratio, learn, count = (scores.logprobs, part.old_logprobs), part.learn, counts.learn
        clip_range = config.clip_range
        surrogate = losses.policy_loss(*ratio, part.advantages, learn, clip_range=clip_range, count=count)
        figures = {
            "policy/loss": surrogate,
            "policy/approx_kl": losses.approx_kl(*ratio, learn, count=count),
            "policy/clip_fraction": losses.clip_fraction(*ratio, learn, clip_range=clip_range, count=count),
            "policy/ratio_error": losses.ratio_error(*ratio, learn),
        }
        total = surrogate
        if scores.entropy is not None:
            figures["policy/entropy"] = losses.entropy_bonus(scores.entropy, learn, count=count)
            total = total - config.ent_coef * figures["policy/entropy"]
        if part.targets is not None:
            targets = part.targets
            figures["target/loss"] = losses.nll_loss(
                self.policy.plain_logprobs(targets), targets.is_token, count=counts.target
            )
            total = total + config.target_coef * figures["target/loss"]
        return total, figures

    def value_loss(self, part: Experience, counts: Counts, critic: Critic, *, hidden: Tensor | None = None) -> Tensor:
        """The critic's share, before its weight."""
        return losses.value_loss(
            critic(part.texts, hidden)[:, :-1],
            part.old_values,
            part.returns,
            part.learn_critic,
            value_clip_range=self.config.value_clip_range,
            count=counts.learn_critic,
        )

    def _step(self, counts: Counts, critic: Critic, critic_optimizer: torch.optim.Optimizer) -> Metrics:
        """One optimizer step of both, of neither without tokens to learn; returns the norms before clipping."""
        if not (counts.learn or counts.target or counts.learn_critic):
            return {}
        mine, theirs = self.policy.parameters(), list(critic.parameters())
        limit = self.config.max_grad_norm
        if self.config.joint_grad_norm:
            norm = clip_gradients(mine + theirs, limit)
            norms = {"grad_norm/policy": norm, "grad_norm/critic": norm}
        else:
            norms = {"grad_norm/policy": clip_gradients(mine, limit), "grad_norm/critic": clip_gradients(theirs, limit)}
        # A gradient of zero would not do: an optimizer goes on by its momentum.
        if counts.learn or counts.target or (critic.is_shared and counts.learn_critic):
            self.optimizer.step()
        if counts.learn_critic:
            critic_optimizer.step()
        return norms

    def state_dict(self) -> dict[str, Any]:
        """Everything but the policy's own weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ref_policy": self.ref_policy.state_dict(),
            "kl": self.kl.state_dict(),
            "critics": {
                critic_owner: {"critic": critic.state_dict(), "optimizer": optimizer.state_dict()}
                for critic_owner, (critic, optimizer) in self._critics.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.ref_policy.load_state_dict(state["ref_policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.kl.load_state_dict(state["kl"])
        for critic_owner, saved in state["critics"].items():
            critic, optimizer = self.critic(critic_owner)
            critic.load_state_dict(saved["critic"])
            optimizer.load_state_dict(saved["optimizer"])
