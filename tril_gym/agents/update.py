"""The clipped actor-critic update that the RL agents share.

From finished trajectories: price the drift from the reference policy, estimate advantages with the critic, then go
over the texts a few times in minibatches and move policy and critic. Which tokens count for which loss is written in
the trajectories; who wrote them does not matter here.

B texts, T new tokens.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tril_gym.agents import losses
from tril_gym.agents.clock import Clock
from tril_gym.agents.critic import Critic, value_after
from tril_gym.agents.decoding import Decoding
from tril_gym.agents.kl import kl_controller, kl_terms, nats_per_text
from tril_gym.agents.knobs import check_not_negative, check_positive, check_share, knob
from tril_gym.agents.layout import TextLayout
from tril_gym.agents.masked import explained_variance, masked_whiten
from tril_gym.agents.plan import Plan
from tril_gym.agents.policy import LMPolicy
from tril_gym.agents.returns import gae, kl_penalised_rewards
from tril_gym.agents.trajectories import Texts, Trajectories, minibatches

Metrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig:
    """Every number that the shared update reads. Names and defaults live here and nowhere else."""

    episodes_per_iteration: int | None = knob(None, "texts collected between updates; default: one per environment row")
    learning_rate: float = knob(1e-5, "AdamW step size of the policy")
    critic_learning_rate: float | None = knob(None, "AdamW step size of the critic; default: the policy's")
    epochs: int = knob(4, "passes over the texts of an iteration")
    minibatch_size: int = knob(32, "texts per optimizer step")
    gamma: float = knob(1.0, "discount per token")
    gae_lambda: float = knob(0.95, "λ of the advantages: 0 trusts the critic after one token, 1 only at the end")
    clip_range: float = knob(0.2, "half-width ε of the ratio interval [1−ε, 1+ε]")
    value_clip_range: float | None = knob(None, "how far a value may move per iteration, in reward; default: any")
    vf_coef: float = knob(0.5, "weight of the value loss")
    ent_coef: float = knob(0.0, "weight of the entropy bonus, reward per nat")
    normalize_advantages: bool = knob(False, "whiten advantages over the learned tokens")
    kl_coef: float = knob(0.001, "reward lost per nat of KL to the reference policy")
    kl_estimator: Literal["k1", "k2", "k3"] = knob("k1", "estimator of the KL inside the reward")
    kl_controller: Literal["fixed", "adaptive", "proportional", "pid"] = knob("fixed", "how kl_coef follows kl_target")
    kl_target: float | None = knob(None, "KL to hold, nats per text; for the controllers that are not fixed")
    kl_horizon: float = knob(10_000.0, "episodes over which the adaptive controller reacts")
    target_kl: float | None = knob(None, "end the epochs early at 1.5 times so many nats per token; default: never")
    max_grad_norm: float = knob(1.0, "gradient norm is clipped to this")
    joint_grad_norm: bool = knob(False, "clip one norm over policy and critic, not one each")
    temperature: float = knob(1.0, "of the policy's distribution, in sampling and scoring alike")
    top_k: int | None = knob(None, "cut the policy's distribution to its k best tokens; only to reproduce old settings")
    top_p: float | None = knob(None, "cut the policy's distribution to its nucleus; only to reproduce old settings")

    def __post_init__(self) -> None:
        check_positive(self, "episodes_per_iteration", "learning_rate", "critic_learning_rate", "epochs")
        check_positive(self, "minibatch_size", "value_clip_range", "target_kl", "max_grad_norm", "temperature")
        check_not_negative(self, "vf_coef", "ent_coef", "kl_coef")
        check_share(self, "gamma", "gae_lambda")
        if not 0 < self.clip_range < 1:
            raise ValueError(f"clip_range must be in (0, 1), got {self.clip_range}; the usual value is 0.2")
        if self.decoding().truncates:  # which also refuses what cannot be sampled
            warnings.warn(
                f"top_k={self.top_k} and top_p={self.top_p} cut the policy's own distribution, whose KL to a reference"
                " with another cut is infinite; leave both out, unless you reproduce old settings",
                stacklevel=3,
            )
        kl_controller(self.kl_controller, coef=self.kl_coef, target=self.kl_target, horizon=self.kl_horizon)

    def decoding(self) -> Decoding:
        """The policy's distribution."""
        return Decoding(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)


@dataclass(frozen=True, slots=True)
class Experience:
    """What the losses read of a batch of texts, all (B, T); float tensors in the policy's precision."""

    texts: Texts
    old_logprobs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    learn: Tensor  # bool: tokens that teach the policy
    learn_critic: Tensor  # bool: tokens whose value the critic learns

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, rows: Tensor) -> Experience:
        """Some texts, without the columns that none of them reaches."""
        texts = self.texts[rows].trimmed()
        width = texts.tokens.shape[1]
        rest = (self.old_logprobs, self.old_values, self.advantages, self.returns, self.learn, self.learn_critic)
        return Experience(texts, *(tensor[rows, :width] for tensor in rest))

    def to(self, device: torch.device) -> Experience:
        """The same on another device."""
        rest = (self.old_logprobs, self.old_values, self.advantages, self.returns, self.learn, self.learn_critic)
        return Experience(self.texts.to(device), *(tensor.to(device) for tensor in rest))


class ActorCritic:
    """A policy with its critics, its reference and its optimizers.

    Args:
        policy: is trained in place.
        config: the numbers.
        layout: of the environment.
    """

    def __init__(self, policy: LMPolicy, config: ActorCriticConfig, layout: TextLayout) -> None:
        self.policy, self.config, self.layout = policy, config, layout
        self.ref_policy = policy.frozen_copy()
        self.optimizer = adamw(policy.model.parameters(), config.learning_rate)
        self.kl = kl_controller(
            config.kl_controller, coef=config.kl_coef, target=config.kl_target, horizon=config.kl_horizon
        )
        self._critics: dict[str, tuple[Critic, torch.optim.Optimizer]] = {}

    def critic(self, whose: str) -> tuple[Critic, torch.optim.Optimizer]:
        """The critic of the policy or of the guide, made at its first use from the reference policy's weights."""
        if whose not in self._critics:
            critic = Critic(self.ref_policy)
            rate = self.config.critic_learning_rate or self.config.learning_rate
            self._critics[whose] = critic, adamw(critic.parameters(), rate)
        return self._critics[whose]

    def update(self, trajectories: Trajectories, plan: Plan, *, generator: torch.Generator, clock: Clock) -> Metrics:
        """Learn from an iteration's texts.

        Args:
            trajectories: finished texts.
            plan: how they were written; says whose critic learns.
            generator: shuffles the minibatches.
            clock: counts seconds as "reference" and "learn".
        """
        critic, critic_optimizer = self.critic(plan.critic)
        name = "critic" if plan.critic == "policy" else "guide_critic"
        with clock.time("reference"):
            trajectories = self.annotate(trajectories, critic)
        kl = self._kl(trajectories)
        experience = self.experience(trajectories)
        metrics = {
            "kl": kl,
            "kl_coef": self.kl.coef,
            f"{name}/explained_variance": float(
                explained_variance(experience.old_values, experience.returns, experience.learn_critic)
            ),
        }
        with clock.time("learn"):
            steps = self._epochs(experience, critic, critic_optimizer, generator)
        self.kl.update(kl, len(trajectories))
        return metrics | {figure.replace("critic", name): value for figure, value in steps.items()}

    @torch.no_grad()
    def annotate(self, trajectories: Trajectories, critic: Critic) -> Trajectories:
        """Add the reference's log-probabilities and the critic's values."""

        def by_parts(function: Callable[[Texts], Tensor]) -> Tensor:
            rows = torch.arange(len(trajectories)).split(self.config.minibatch_size)
            return torch.cat([function(trajectories.texts[part]).cpu() for part in rows])

        def scored_by(policy: LMPolicy) -> Tensor:
            return by_parts(lambda texts: policy.score(texts, self.layout).logprobs)

        old_logprobs = trajectories.old_logprobs
        if next(self.policy.model.parameters()).dtype in (torch.float16, torch.bfloat16):
            # Rounding differs between a cached pass and a whole one by more than a ratio may err.
            old_logprobs = scored_by(self.policy).double()
        return replace(
            trajectories, ref_logprobs=scored_by(self.ref_policy), values=by_parts(critic), old_logprobs=old_logprobs
        )

    def experience(self, trajectories: Trajectories) -> Experience:
        """Penalised rewards, advantages and returns of annotated trajectories."""
        ref_logprobs, values = trajectories.ref_logprobs, trajectories.values
        assert ref_logprobs is not None, "annotate first"
        assert values is not None, "annotate first"
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
        assert trajectories.ref_logprobs is not None, "annotate first"
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
        rows_of_steps = minibatches(len(experience), epochs=epochs, size=size, generator=generator)
        for step, rows in enumerate(rows_of_steps):
            batch = experience.part(rows).to(self.policy.device)
            loss, figures = self.loss(batch, critic)
            if step == 0:
                figures["policy/ratio_error"] = figures["ratio_error"]
            del figures["ratio_error"]
            target_kl = self.config.target_kl
            if target_kl is not None and figures["policy/approx_kl"] > 1.5 * target_kl:
                break
            figures |= self._step(loss, batch, critic, critic_optimizer)
            for name, value in figures.items():
                means[name].append(value)
        return {name: sum(values) / len(values) for name, values in means.items()}

    def loss(self, batch: Experience, critic: Critic) -> tuple[Tensor, Metrics]:
        """The total loss of a minibatch, and its parts as numbers."""
        config = self.config
        scores = self.policy.score(batch.texts, self.layout, with_entropy=True)
        assert scores.entropy is not None, "asked for"
        values = critic(batch.texts)[:, :-1]
        ratio = (scores.logprobs, batch.old_logprobs)
        policy = losses.policy_loss(*ratio, batch.advantages, batch.learn, clip_range=config.clip_range)
        value = losses.value_loss(
            values, batch.old_values, batch.returns, batch.learn_critic, value_clip_range=config.value_clip_range
        )
        entropy = losses.entropy_bonus(scores.entropy, batch.learn)
        figures = {
            "policy/loss": policy,
            "policy/approx_kl": losses.approx_kl(*ratio, batch.learn),
            "policy/clip_fraction": losses.clip_fraction(*ratio, batch.learn, clip_range=config.clip_range),
            "policy/entropy": entropy,
            "ratio_error": losses.ratio_error(*ratio, batch.learn),
            "critic/loss": value,
        }
        total = policy + config.vf_coef * value - config.ent_coef * entropy
        return total, {name: float(figure.detach()) for name, figure in figures.items()}

    def _step(
        self, loss: Tensor, batch: Experience, critic: Critic, critic_optimizer: torch.optim.Optimizer
    ) -> Metrics:
        """One optimizer step of both, of neither without tokens to learn; returns the norms before clipping."""
        # A gradient of zero would not do: the optimizer goes on by its momentum.
        has_tokens = {self.optimizer: bool(batch.learn.any()), critic_optimizer: bool(batch.learn_critic.any())}
        if not any(has_tokens.values()):
            return {}
        self.optimizer.zero_grad()
        critic_optimizer.zero_grad()
        loss.backward()
        mine, theirs = list(self.policy.model.parameters()), list(critic.parameters())
        limit = self.config.max_grad_norm
        if self.config.joint_grad_norm:
            norm = nn.utils.clip_grad_norm_(mine + theirs, limit)
            norms = {"grad_norm/policy": norm, "grad_norm/critic": norm}
        else:
            norms = {
                "grad_norm/policy": nn.utils.clip_grad_norm_(mine, limit),
                "grad_norm/critic": nn.utils.clip_grad_norm_(theirs, limit),
            }
        for optimizer, learns in has_tokens.items():
            if learns:
                optimizer.step()
        return {name: float(norm) for name, norm in norms.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything but the policy's own weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "ref_policy": self.ref_policy.model.state_dict(),
            "kl": self.kl.state_dict(),
            "critics": {
                whose: {"critic": critic.state_dict(), "optimizer": optimizer.state_dict()}
                for whose, (critic, optimizer) in self._critics.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.ref_policy.model.load_state_dict(state["ref_policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.kl.load_state_dict(state["kl"])
        for whose, saved in state["critics"].items():
            critic, optimizer = self.critic(whose)
            critic.load_state_dict(saved["critic"])
            optimizer.load_state_dict(saved["optimizer"])


def adamw(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.AdamW:
    """Without weight decay: a policy is held near its reference by the KL, not by small weights."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    return torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=0.0, fused=True)
