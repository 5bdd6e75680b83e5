"""Optimizer steps: schedules, gradient accumulation, mixed precision, gradient checkpointing and AdamW."""

import math
from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
import torch
from doubles import generator, language_model
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import (
    BC,
    D2LOLS,
    LOLS,
    PPO,
    BCConfig,
    D2LOLSConfig,
    GAILConfig,
    Guide,
    LMPolicy,
    LOLSConfig,
    Plan,
    PPOConfig,
    TextLayout,
    Trajectories,
)
from tril_gym.agents.actors.references import References
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.agents.learners.adversarial import AdversarialLearner
from tril_gym.agents.learners.behaviour_cloning import BehaviourCloning
from tril_gym.agents.learners.optimizer import OptimizerConfig, adamw
from tril_gym.models.noise import uses_gradient_checkpointing
from tril_gym.utils.profiler import Timer

V = 16
NUMBERS = {"learning_rate": 1e-3, "minibatch_size": 4, "epochs": 1, "episodes_per_iteration": 8}


def envs() -> VectorEnv:
    # The references have many lengths.
    return gym.make_vec("tril/Toy-v0", num_envs=8, autoreset_mode="Disabled", rule="stop")


def policy_of(family: str = "gpt2", seed: int = 0, dtype: torch.dtype = torch.float32) -> LMPolicy:
    model = language_model(family, vocab_size=V, positions=20, seed=seed, dtype=dtype)
    return LMPolicy(model, envs().unwrapped.tokenizer)


def actor_critic(policy: LMPolicy, **numbers: Any) -> ActorCritic:
    return ActorCritic(policy, PPOConfig(**NUMBERS | numbers), TextLayout.of(envs()))


def cloning(policy: LMPolicy, **numbers: Any) -> BehaviourCloning:
    return BehaviourCloning(policy, BCConfig(**NUMBERS | numbers))


LEARNERS = {"actor-critic": actor_critic, "cloning": cloning}


def texts_of(plan: Plan, episodes: int = 10) -> Trajectories:
    """Return texts of different lengths and rewards."""
    texts = collect(envs(), plan, episodes=episodes, generator=generator(1))
    assert len(set(texts.lengths.tolist())) > 1
    return replace(texts, rewards=torch.randn(texts.rewards.shape, generator=generator(5), dtype=torch.float64))


def half_guided(policy: LMPolicy) -> Plan:
    return Plan(rollout=policy, rollin=References(), rollin_prob=0.8)


def update(learner: Any, trajectories: Trajectories, plan: Plan) -> dict[str, float]:
    return learner.update(trajectories, plan, generator=generator(2), timer=Timer())


def weights(learner: Any) -> list[Tensor]:
    """Return the weights of all networks that learn."""
    networks: list[Any] = [learner.policy.language_model]
    if isinstance(learner, ActorCritic):
        networks.append(learner.critic("policy")[0])
    return [weight.clone() for network in networks for weight in network.state_dict().values()]


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(one, other, strict=True))


def rate(optimizer: torch.optim.Optimizer) -> float:
    (learning_rate,) = {group["lr"] for group in optimizer.param_groups}
    return learning_rate


HALF = math.sqrt(0.5) / 2  # ½ (1 + cos 45°) = ½ + HALF


class TestLearningRateFactors:
    @pytest.mark.parametrize(
        ("settings", "shares"),
        [
            ({}, [1, 1, 1, 1]),
            ({"lr_iterations": 2}, [1, 1, 1, 1]),
            # Warm-up of n iterations: 1/(n+1), 2/(n+1) … n/(n+1), then all of it.
            ({"lr_warmup": 1}, [1 / 2, 1, 1]),
            ({"lr_warmup": 3}, [1 / 4, 2 / 4, 3 / 4, 1, 1]),
            # Linear in n iterations: n/n, (n−1)/n … 1/n, so that each of them learns, then nothing.
            ({"lr_schedule": "linear", "lr_iterations": 4}, [1, 3 / 4, 2 / 4, 1 / 4, 0, 0, 0]),
            # Two of six iterations to rise, four to fall.
            (
                {"lr_schedule": "linear", "lr_iterations": 6, "lr_warmup": 2},
                [1 / 3, 2 / 3, 1, 3 / 4, 1 / 2, 1 / 4, 0, 0],
            ),
            # ½ (1 + cos πt/n)
            ({"lr_schedule": "cosine", "lr_iterations": 4}, [1, 0.5 + HALF, 0.5, 0.5 - HALF, 0, 0, 0, 0, 0]),
            ({"lr_schedule": "cosine", "lr_iterations": 3, "lr_warmup": 1}, [1 / 2, 1, 1 / 2, 0, 0, 0]),
        ],
        ids=lambda value: ", ".join(map(str, value.values())) if isinstance(value, dict) else "",
    )
    def test_by_hand(self, settings, shares):
        config = OptimizerConfig(**settings)
        assert [config.learning_rate_factor(iteration) for iteration in range(len(shares))] == pytest.approx(
            shares, abs=1e-15
        )

    @pytest.mark.parametrize(
        ("agent_type", "config_type", "numbers"),
        [
            (PPO, PPOConfig, {}),
            (D2LOLS, D2LOLSConfig, {"aggrevated_iterations": 2}),
            (LOLS, LOLSConfig, {"ppo_pp_prob": 0.5}),
        ],
        ids=lambda value: getattr(value, "name", ""),
    )
    def test_schedule_holds_for_policy_and_critics(self, agent_type, config_type, numbers):
        numbers = NUMBERS | numbers | {"lr_schedule": "linear", "lr_iterations": 4, "critic_learning_rate": 1e-2}
        guide = [Guide(policy_of(seed=1))] if agent_type.takes_guide else []
        agent = agent_type(policy_of(), *guide, envs(), config_type(**numbers))
        found = []

        def after(report: Any) -> None:
            critic = agent.plan(report.iteration - 1).critic
            assert critic in agent.learner._critics
            found.append((critic, rate(agent.learner.optimizer), rate(agent.learner.critic(critic)[1])))

        agent.learn(4, callbacks=[after])
        assert [policy for _, policy, _ in found] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
        assert [critic for _, _, critic in found] == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])
        assert {critic_owner for critic_owner, _, _ in found} == ({"policy", "guide"} if guide else {"policy"})

    def test_the_discriminator_has_a_constant_rate(self):
        numbers = {"lr_schedule": "linear", "lr_iterations": 4, "lr_warmup": 1, "discriminator_learning_rate": 1e-2}
        learner = AdversarialLearner(policy_of(), GAILConfig(**NUMBERS | numbers), TextLayout.of(envs()))
        plan = Plan(rollout=learner.actor_critic.policy)
        texts, found = texts_of(plan), []
        for _ in range(3):
            update(learner, texts, plan)
            found.append((rate(learner.actor_critic.optimizer), rate(learner.optimizer)))
        assert [policy for policy, _ in found] == pytest.approx([1e-3 / 2, 1e-3, 2e-3 / 3])
        assert [discriminator for _, discriminator in found] == [1e-2] * 3

    @pytest.mark.parametrize("learner_of", LEARNERS.values(), ids=LEARNERS)
    def test_learning_rate_of_zero_changes_no_weight(self, learner_of):
        learner = learner_of(policy_of(), lr_schedule="linear", lr_iterations=2)
        plan = half_guided(learner.policy)
        trajectories = texts_of(plan)
        moves = []
        for _ in range(3):
            before = weights(learner)
            update(learner, trajectories, plan)
            moves.append(distance(weights(learner), before))
        assert moves[0] > 1e-4
        assert moves[1] > 1e-4
        assert moves[2] == 0.0

    @pytest.mark.parametrize("learner_of", LEARNERS.values(), ids=LEARNERS)
    def test_schedule_continues_after_loading(self, learner_of):
        def fresh() -> Any:
            return learner_of(policy_of(), lr_schedule="linear", lr_iterations=4, lr_warmup=1)

        stopped = fresh()
        plan = half_guided(stopped.policy)
        trajectories = texts_of(plan)
        for _ in range(2):
            update(stopped, trajectories, plan)
        loaded, forgetful = fresh(), fresh()
        loaded.load_state_dict(stopped.state_dict())
        forgetful.load_state_dict(stopped.state_dict() | {"schedule": {"iteration": 0}})
        for learner in (stopped, loaded, forgetful):
            update(learner, trajectories, plan)
        # Shares are ½, 1, ⅔, ⅓, 0: this was the third.
        assert rate(stopped.optimizer) == rate(loaded.optimizer) == pytest.approx(2e-3 / 3)
        assert rate(forgetful.optimizer) == pytest.approx(1e-3 / 2)
        if isinstance(loaded, ActorCritic):
            assert rate(loaded.critic("policy")[1]) == pytest.approx(2e-3 / 3)


class TestRefused:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"lr_schedule": "linear"}, r"lr_schedule is linear, so lr_iterations must say"),
            ({"lr_schedule": "cosine", "lr_warmup": 2}, r"lr_schedule is cosine, so lr_iterations must say"),
            ({"lr_iterations": 5, "lr_warmup": 5}, r"lr_warmup must be less than the 5 lr_iterations, got 5"),
            ({"lr_schedule": "linear", "lr_iterations": 5, "lr_warmup": 9}, r"less than the 5 lr_iterations, got 9"),
            ({"lr_warmup": -1}, r"lr_warmup must be at least 0, got -1"),
            ({"lr_schedule": "linear", "lr_iterations": 0}, r"lr_iterations must be at least 1, got 0"),
            ({"learning_rate": 0.0}, r"learning_rate must be in \(0, 1\], got 0\.0; the usual value is 1e-05"),
            ({"learning_rate": math.nan}, r"learning_rate must be finite and in \(0, 1\], got nan"),
            ({"gradient_accumulation": 0}, r"gradient_accumulation must be at least 1, got 0"),
            ({"weight_decay": -0.1}, r"weight_decay must be in \[0, 1000000\], got -0\.1; the usual value is 0\.0"),
            ({"weight_decay": math.inf}, r"weight_decay must be finite and in \[0, 1000000\], got inf"),
            (
                {"adam_betas": (0.9, 1.0)},
                r"adam_betas must be in \[0, 1\), got \(0\.9, 1\.0\); the usual value is \(0\.9",
            ),
            ({"adam_betas": (0.9,)}, r"adam_betas must be two numbers, got \(0\.9,\)"),
            ({"max_grad_norm": 0.0}, r"max_grad_norm must be above 0, got 0\.0"),
        ],
    )
    def test_invalid_settings(self, settings, message):
        with pytest.raises(ValueError, match=message):
            OptimizerConfig(**settings)

    def test_warm_up_of_a_constant_rate_may_be_long(self):
        assert OptimizerConfig(lr_warmup=9).lr_warmup == 9
        assert OptimizerConfig(lr_iterations=10, lr_warmup=9).lr_warmup == 9


class TestGradientAccumulation:
    """Accumulated gradients equal those of the whole minibatch: means are over all its tokens."""

    @staticmethod
    def outcome(learner: Any, plan: Plan) -> list[Tensor]:
        # Minibatches of 4, 4 and 2 texts; the last falls into two parts at most.
        before = weights(learner)
        update(learner, texts_of(plan), plan)
        after = weights(learner)
        assert distance(before, after) > 1e-4
        return after

    @pytest.mark.parametrize("family", ["gpt2", "t5"])
    def test_actor_critic(self, family):
        def learner_of(parts: int) -> tuple[ActorCritic, Plan]:
            numbers = {"target_coef": 0.3, "ent_coef": 0.1, "vf_coef": 2.0, "value_clip_range": 0.2}
            numbers |= {"group_by_length": False}  # else parts would be nearly alike
            policy = policy_of(family, dtype=torch.float64)
            return actor_critic(policy, gradient_accumulation=parts, **numbers), half_guided(policy)

        whole, halves, quarters = (self.outcome(*learner_of(parts)) for parts in (1, 2, 4))
        assert distance(whole, halves) < 1e-6
        assert distance(whole, quarters) < 1e-6
        # The control: each part with its own means, which are then averaged.
        learner, plan = learner_of(2)
        policy_loss = learner.epochs.policy_terms

        def mean_of_means(part: Any, counts: Any, **settings: Any) -> tuple[Tensor, dict[str, Tensor]]:
            loss, figures = policy_loss(part, part.counts, **settings)
            return loss / 2, figures

        learner.epochs.policy_terms = mean_of_means
        assert distance(whole, self.outcome(learner, plan)) > 1e-5

    @pytest.mark.parametrize("family", ["gpt2", "t5"])
    def test_behaviour_cloning(self, family):
        def learner_of(parts: int) -> tuple[BehaviourCloning, Plan]:
            policy = policy_of(family, dtype=torch.float64)
            return cloning(policy, gradient_accumulation=parts), Plan(rollout=References())

        whole, halves, quarters = (self.outcome(*learner_of(parts)) for parts in (1, 2, 4))
        assert distance(whole, halves) < 1e-6
        assert distance(whole, quarters) < 1e-6
        learner, plan = learner_of(2)
        loss = learner.text_loss
        learner.text_loss = lambda texts, labels, count: loss(texts, labels, None) / 2
        assert distance(whole, self.outcome(learner, plan)) > 1e-5

    @pytest.mark.parametrize("learner_of", LEARNERS.values(), ids=LEARNERS)
    def test_metrics_are_the_same(self, learner_of):
        metrics = []
        for parts in (1, 4):
            learner = learner_of(policy_of(dtype=torch.float64), gradient_accumulation=parts)
            plan = half_guided(learner.policy)
            metrics.append(update(learner, texts_of(plan), plan))
        assert metrics[0] == pytest.approx(metrics[1], rel=1e-6, abs=1e-9)
        assert metrics[0]["policy/loss"] != 0


class TestMixedPrecision:
    @pytest.mark.parametrize("family", ["gpt2", "t5"])
    def test_actor_critic(self, family):
        policy = policy_of(family)
        learner, plan = actor_critic(policy, mixed_precision="bf16", target_coef=0.1), Plan(rollout=policy)
        trajectories = texts_of(plan)
        rescored = learner.credit.add_reference_and_values(trajectories, learner.critic("policy")[0]).old_logprobs
        # bfloat16 has 8 bits: numbers of some nats are off by some hundredths.
        off = float((rescored - trajectories.old_logprobs)[trajectories.wrote].abs().max())
        assert 1e-3 < off < 0.3
        before = weights(learner)
        metrics = update(learner, trajectories, plan)
        assert all(math.isfinite(value) for value in metrics.values())
        assert metrics["policy/loss"] != 0 != metrics["target/loss"]
        # Before the first step both log-probabilities of a ratio are so computed, in batches of other shapes: each is
        # off by so much at most, in one direction or the other.
        assert metrics["policy/ratio_error"] <= math.expm1(2 * off)
        after = weights(learner)
        assert {weight.dtype for weight in after if weight.is_floating_point()} == {torch.float32}
        assert 1e-4 < distance(before, after) < 0.1
        assert all(weight.isfinite().all() for weight in after)

    def test_accelerator_of_another_precision(self):
        """Accelerate keeps one state per process, which a tracker's accelerator sets."""
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, GradientState

        Accelerator(cpu=True)
        try:
            policy = policy_of()
            learner = actor_critic(policy, mixed_precision="bf16")
            metrics = update(learner, texts_of(Plan(rollout=policy)), Plan(rollout=policy))
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
        assert math.isfinite(metrics["policy/loss"])

    def test_old_logprobs_of_full_precision_differ(self):
        errors = []
        for rescores in (True, False):
            policy = policy_of()
            learner, plan = actor_critic(policy, mixed_precision="bf16"), Plan(rollout=policy)
            if not rescores:
                learner.credit.config = replace(learner.config, mixed_precision="no")
            errors.append(update(learner, texts_of(plan), plan)["policy/ratio_error"])
        rescored, kept = errors
        assert kept > 0.01
        assert rescored < kept / 2

    def test_behaviour_cloning(self):
        plan, outcomes = Plan(rollout=References()), []
        for precision in ("bf16", "no"):
            learner = cloning(policy_of(), mixed_precision=precision)
            assert math.isfinite(update(learner, texts_of(plan), plan)["policy/loss"])
            outcomes.append(weights(learner))
        assert {weight.dtype for weight in outcomes[0]} == {torch.float32}
        assert 1e-6 < distance(*outcomes) < 0.1  # nearly the same; but it was in lower precision


class TestGradientCheckpointing:
    """Activations are computed again in the backward pass; sampling keeps its cache."""

    @pytest.mark.parametrize("algorithm", [(PPO, PPOConfig), (BC, BCConfig)], ids=["ppo", "bc"])
    def test_weights_are_the_same(self, family, algorithm):
        agent_type, config_type = algorithm
        outcomes = []
        for checkpointing in (False, True):
            policy = policy_of(family, dtype=torch.float64)
            agent = agent_type(policy, envs(), config_type(**NUMBERS, gradient_checkpointing=checkpointing))
            passes = []
            body = policy.model.get_encoder() if policy.model.config.is_encoder_decoder else policy.model.base_model
            layers = next(module for module in body.modules() if isinstance(module, nn.ModuleList))
            leaf = next(module for module in layers[0].modules() if not list(module.children()))
            leaf.register_forward_pre_hook(lambda *_, passes=passes: passes.append(torch.is_grad_enabled()))
            agent.learn(2)
            networks = [policy] if agent_type is BC else [policy, agent.learner.critic("policy")[0]]
            assert {uses_gradient_checkpointing(network.model) for network in networks} == {checkpointing}
            assert any(module.training for module in policy.model.modules()) == checkpointing
            outcomes.append((weights(agent.learner), sum(passes)))
        (plain, once), (checkpointed, twice) = outcomes
        assert distance(plain, checkpointed) < 1e-7  # T5 computes partly in float32
        assert twice == 2 * once > 0


class TestAdamW:
    def test_defaults(self):
        (group,) = actor_critic(policy_of()).optimizer.param_groups
        assert (group["weight_decay"], group["betas"], group["lr"]) == (0.0, (0.9, 0.999), 1e-3)

    def test_every_optimizer_takes_decay_and_betas(self):
        numbers = {"weight_decay": 0.1, "adam_betas": [0.5, 0.6], "critic_learning_rate": 1e-2}
        learner = AdversarialLearner(policy_of(), GAILConfig(**NUMBERS | numbers), TextLayout.of(envs()))
        critic = learner.actor_critic.critic("policy")[1]
        optimizers = (learner.actor_critic.optimizer, critic, learner.optimizer, cloning(policy_of()).optimizer)
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        assert [group["lr"] for group in groups] == [1e-3, 1e-2, 1e-3, 1e-3]
        assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0.1, 0.0]
        assert [group["betas"] for group in groups] == [(0.5, 0.6)] * 3 + [(0.9, 0.999)]

    def test_decay_shrinks_weights_that_have_no_gradient(self):
        weight = nn.Parameter(torch.ones(1))
        weight.grad = torch.zeros(1)
        # w ← w − lr · decay · w
        optimizer = adamw([weight], OptimizerConfig(learning_rate=0.5, weight_decay=0.1))
        optimizer.step()
        assert weight.item() == pytest.approx(0.95)
