"""The shared actor-critic update: what reaches the losses, and when the optimizers step."""

import math
from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
import torch
from doubles import (
    MANY_EOS,
    G,
    OneToken,
    P,
    alone,
    foreign_envs,
    generator,
    language_model,
    policy_of,
)
from torch import Tensor

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import (
    PPO,
    BCConfig,
    Guide,
    LMPolicy,
    Plan,
    PPOConfig,
    PPOPlusPlus,
    PPOPlusPlusConfig,
    TextLayout,
    Trajectories,
)
from tril_gym.agents.actors.references import ReferenceTokens, reference_texts
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.agents.learners.behaviour_cloning import BehaviourCloning
from tril_gym.agents.learners.experience import Experience
from tril_gym.models.texts import Texts
from tril_gym.utils.profiler import Timer

NUMBERS = {"learning_rate": 1e-3, "minibatch_size": 8, "epochs": 2}


def learner_of(policy: LMPolicy, **numbers: Any) -> ActorCritic:
    return ActorCritic(policy, PPOConfig(**NUMBERS | numbers), TextLayout.of(envs()))


def envs(num_envs: int = 16, **settings: Any):
    return foreign_envs(num_envs, eos_token_ids=MANY_EOS, **settings)


def texts_of(plan: Plan, episodes: int = 16) -> Trajectories:
    return collect(envs(), plan, episodes=episodes, generator=generator(1))


def half_guided(policy: LMPolicy) -> Plan:
    return Plan(rollout=policy, rollin=Guide(policy_of("gpt2", seed=1)), rollin_prob=0.6)


def weights(learner: ActorCritic) -> tuple[list[Tensor], list[Tensor]]:
    """The policy's, and those of its critic."""
    critic, _ = learner.critic("policy")
    return [t.clone() for t in learner.policy.model.state_dict().values()], [
        t.clone() for t in critic.state_dict().values()
    ]


def update(learner: ActorCritic, trajectories: Trajectories, plan: Plan) -> dict[str, float]:
    return learner.update(trajectories, plan, generator=generator(2), timer=Timer())


def moved(learner: ActorCritic) -> ActorCritic:
    """As after some training: its reference is another policy."""
    learner.credit.ref_policy = policy_of("gpt2", seed=3).with_decoding(learner.policy.decoding)
    return learner


class TestPenalisedRewards:
    """The price of the KL reaches the advantages, of the policy's own tokens alone."""

    def advantages(self, **numbers: Any) -> tuple[Trajectories, Tensor]:
        """γ = 1, λ = 0 and a critic that says 0: each token's advantage is its reward."""
        policy = policy_of("gpt2", dtype=torch.float64)
        learner = moved(learner_of(policy, gamma=1.0, gae_lambda=0.0, **numbers))
        trajectories = learner.credit.add_reference_and_values(
            texts_of(half_guided(policy)), learner.critic("policy")[0]
        )
        return trajectories, learner.credit.experience(trajectories, kl_coef=learner.kl_controller.coef).advantages

    def test_k1(self):
        trajectories, advantages = self.advantages(kl_coef=0.3)
        drift = trajectories.old_logprobs - trajectories.ref_logprobs
        expected = trajectories.rewards - torch.where(trajectories.wrote, 0.3 * drift, 0.0)
        torch.testing.assert_close(advantages, expected.float().double(), rtol=0, atol=1e-5)
        assert float(drift[trajectories.wrote].abs().max()) > 1.0
        assert trajectories.is_rollin.any()

    def test_k3_is_never_a_reward(self):
        trajectories, advantages = self.advantages(kl_coef=0.3, kl_estimator="k3")
        priced = (trajectories.rewards - advantages)[trajectories.wrote]
        assert float(priced.min()) > -1e-6
        assert float(priced.max()) > 0.3

    def test_no_price(self):
        trajectories, advantages = self.advantages(kl_coef=0.0)
        torch.testing.assert_close(advantages, trajectories.rewards, rtol=0, atol=1e-6)

    def test_a_drift_is_reported_and_moves_the_price(self):
        policy = policy_of("gpt2")
        learner = moved(learner_of(policy, kl_coef=0.1, kl_controller="adaptive", kl_target=0.5, kl_horizon=100.0))
        plan = Plan(rollout=policy)
        trajectories = texts_of(plan)
        metrics = update(learner, trajectories, plan)
        drift = (
            trajectories.old_logprobs
            - learner.policy.frozen_copy()
            .with_decoding(policy.decoding)
            .token_logprobs(trajectories.texts, TextLayout.of(envs()))
            .logprobs.detach()
        )
        assert drift is not None
        assert metrics["kl"] > 1.0
        assert metrics["kl_coef"] == 0.1  # what was paid in this iteration
        assert learner.kl_controller.coef == pytest.approx(0.1 * (1 + 0.2 * 16 / 100))

    @pytest.mark.parametrize(
        ("controller", "price"),
        [
            # (the adaptive one is clipped)
            ("fixed", lambda e: 0.1),
            ("adaptive", lambda e: 0.1 * (1 + 0.2 * 16 / 50)),
            ("proportional", lambda e: 0.1 + 0.03 * e),
            ("pid", lambda e: 0.1 + 0.03 * e + 0.007 * e),
        ],
    )
    def test_every_number_of_a_controller_reaches_it(self, controller, price):
        policy, target = policy_of("gpt2"), 8.0
        gains = {"kl_gain": 0.03, "kl_integral_gain": 0.007, "kl_derivative_gain": 0.05}
        numbers = {"kl_coef": 0.1, "kl_target": target, "kl_horizon": 50.0, "learning_rate": 1e-9} | gains
        learner, plan = moved(learner_of(policy, kl_controller=controller, **numbers)), Plan(rollout=policy)
        e = update(learner, texts_of(plan), plan)["kl"] / target - 1
        assert e > 0.5
        assert learner.kl_controller.coef == pytest.approx(price(e), rel=1e-9)
        if controller == "pid":  # the change counts from the second iteration on
            other = collect(envs(), plan, episodes=16, generator=generator(9))
            now = update(learner, other, plan)["kl"] / target - 1
            assert abs(now - e) > 0.01
            assert learner.kl_controller.coef == pytest.approx(
                0.1 + 0.03 * now + 0.007 * (e + now) + 0.05 * (now - e), rel=1e-9
            )

    def test_a_moved_price_is_paid_in_the_next_iteration(self):
        policy, plan = policy_of("gpt2"), Plan(rollout=policy_of("gpt2"))
        numbers = {"kl_coef": 0.1, "kl_controller": "proportional", "kl_target": 0.5, "kl_gain": 0.05}
        learner = moved(learner_of(policy, **numbers))
        experience, paid = learner.credit.experience, []

        def recorded(trajectories: Trajectories, *, kl_coef: float) -> Experience:
            paid.append(kl_coef)
            return experience(trajectories, kl_coef=kl_coef)

        learner.credit.experience = recorded  # type: ignore[method-assign]
        logged, moves = [], [0.1]
        for _ in range(2):
            logged.append(update(learner, texts_of(plan), plan)["kl_coef"])
            moves.append(learner.kl_controller.coef)
        assert paid == logged == moves[:2]
        assert moves[1] > 0.11


class TestWhatTeaches:
    """Which tokens the policy learns on, and which its critic."""

    def experience(self, plan: Plan, policy: LMPolicy, **numbers: Any):
        learner = moved(learner_of(policy, **numbers))
        trajectories = learner.credit.add_reference_and_values(texts_of(plan), learner.critic(plan.critic)[0])
        return trajectories, learner.credit.experience(trajectories, kl_coef=learner.kl_controller.coef)

    def test_of_ppo_pp(self):
        policy = policy_of("gpt2")
        trajectories, experience = self.experience(half_guided(policy), policy)
        assert torch.equal(experience.learn, trajectories.is_rollout)
        assert torch.equal(experience.learn_critic, trajectories.is_rollout)
        assert not torch.equal(experience.learn, trajectories.is_token)

    @pytest.mark.parametrize("learn_on", ["rollin", "switch"])
    def test_of_aggrevated(self, learn_on):
        policy, guide = policy_of("gpt2"), Guide(policy_of("gpt2", seed=1))
        plan = Plan(rollout=guide, rollin=policy, rollin_prob=0.6, learn_on=learn_on, critic="guide")
        trajectories, experience = self.experience(plan, policy)
        columns = torch.arange(8)
        switch = trajectories.switch.unsqueeze(1)
        expected = columns < switch if learn_on == "rollin" else columns == switch - 1
        assert torch.equal(experience.learn, expected)
        assert torch.equal(experience.learn_critic, trajectories.is_token & (columns >= switch))  # V of the guide

    def test_advantages_are_whitened_over_what_the_policy_learns_on(self):
        policy = policy_of("gpt2")
        _, experience = self.experience(half_guided(policy), policy, normalize_advantages=True)
        learned = experience.advantages[experience.learn]
        assert float(learned.mean()) == pytest.approx(0.0, abs=1e-5)
        assert float(learned.std(correction=0)) == pytest.approx(1.0, abs=1e-4)
        _, plain = self.experience(half_guided(policy), policy)
        assert abs(float(plain.advantages[plain.learn].mean())) > 1e-2

    def test_the_texts_of_a_minibatch_are_a_minibatch_of_the_texts(self):
        policy = policy_of("gpt2")
        _, experience = self.experience(half_guided(policy), policy)
        rows = torch.tensor([5, 2, 11])
        part = experience.part(rows)
        width = int(part.texts.lengths.max())
        assert part.advantages.shape == (3, width)
        assert torch.equal(part.texts.tokens, experience.texts.tokens[rows, :width])
        for name in ("old_logprobs", "old_values", "advantages", "returns", "learn", "learn_critic"):
            assert torch.equal(getattr(part, name), getattr(experience, name)[rows, :width])


class TestSteps:
    def test_texts_that_teach_nothing_change_nothing(self):
        """Not even through the momentum of earlier steps."""
        policy = policy_of("gpt2")
        learner, plan = learner_of(policy), half_guided(policy)
        trajectories = texts_of(plan)
        before = weights(learner)
        update(learner, trajectories, plan)
        after = weights(learner)
        assert not all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
        nothing = replace(trajectories, is_rollin=trajectories.is_token, switch=trajectories.lengths)
        assert not nothing.learn.any()
        metrics = update(learner, nothing, plan)
        for ours, theirs in zip(weights(learner), after, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert metrics["policy/loss"] == metrics["critic/loss"] == 0.0
        assert "grad_norm/policy" not in metrics

    def test_texts_for_the_critic_alone_leave_the_policy(self):
        policy = policy_of("gpt2")
        learner = learner_of(policy)
        plan = Plan(rollout=policy)
        trajectories = texts_of(plan)
        update(learner, trajectories, plan)
        before = weights(learner)
        # No rollin, and the policy learns on rollins: as where a guide wrote everything.
        update(learner, replace(trajectories, learn_on="rollin"), plan)
        after = weights(learner)
        assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))

    def test_epochs_end_early_where_the_policy_runs_away(self):
        def run(old_logprobs_off: float = 0.0, **numbers: Any) -> tuple[int, dict[str, float]]:
            policy = policy_of("gpt2")
            numbers |= {"normalize_advantages": True, "group_by_length": False}
            learner, plan = learner_of(policy, **numbers), Plan(rollout=policy)
            trajectories = texts_of(plan)
            off = replace(trajectories, old_logprobs=trajectories.old_logprobs - old_logprobs_off)
            metrics = update(learner, off, plan)
            return max((int(state["step"]) for state in learner.optimizer.state.values()), default=0), metrics

        assert run()[0] == 4
        # The first step is made: before it nothing has moved.
        steps, metrics = run(learning_rate=1e-2, target_kl=1e-4)
        assert steps == 1
        # The mean of 0 and of what ended the epochs.
        assert metrics["policy/approx_kl"] > 1.5 * 1e-4 / 2
        assert run(target_kl=10.0)[0] == 4
        # Texts of a policy that is not this one: log ρ = ½ everywhere, so (ρ − 1) − log ρ = .1487. Not a step is made,
        # and the figures say why.
        steps, metrics = run(0.5, target_kl=0.09)
        assert steps == 0
        assert metrics["policy/approx_kl"] == pytest.approx(math.expm1(0.5) - 0.5, rel=1e-3)
        assert metrics["policy/ratio_error"] == pytest.approx(math.expm1(0.5), rel=1e-3)
        assert "grad_norm/policy" not in metrics
        assert run(0.5, target_kl=0.11)[0] >= 1  # 1.5 · .11 is above it

    def test_the_minibatch_that_ends_the_epochs_is_the_last(self):
        policy = policy_of("gpt2")
        learner, plan = (
            learner_of(policy, learning_rate=1e-2, target_kl=1e-4, group_by_length=False),
            Plan(rollout=policy),
        )
        gradients, found = learner.epochs.gradients, []

        def recorded(*parts: Any, **options: Any) -> dict[str, float]:
            found.append(gradients(*parts, **options))
            return dict(found[-1])

        learner.epochs.gradients = recorded  # type: ignore[method-assign]
        metrics = update(learner, texts_of(plan), plan)
        first, last = (step["policy/approx_kl"] for step in found)
        assert first <= 1.5 * 1e-4 < last
        assert metrics["policy/approx_kl"] == pytest.approx((first + last) / 2)

    def test_the_learning_rate_of_the_critic(self):
        policy = policy_of("gpt2")
        learner = learner_of(policy, learning_rate=1e-3, critic_learning_rate=1e-2)
        assert learner.optimizer.param_groups[0]["lr"] == 1e-3
        assert learner.critic("policy")[1].param_groups[0]["lr"] == 1e-2
        assert learner_of(policy).critic("policy")[1].param_groups[0]["lr"] == 1e-3

    def test_gradient_norms_apart_or_as_one(self):
        def norms(**numbers: Any) -> tuple[float, float]:
            policy = policy_of("gpt2")
            plan = Plan(rollout=policy)
            learner = learner_of(policy, epochs=1, minibatch_size=16, vf_coef=1000.0, **numbers)
            metrics = update(learner, texts_of(plan), plan)
            return metrics["grad_norm/policy"], metrics["grad_norm/critic"]

        policy, critic = norms()
        assert critic > 100 * policy > 0
        together, the_same = norms(joint_grad_norm=True)
        assert together == the_same == pytest.approx((policy**2 + critic**2) ** 0.5, rel=1e-4)


class TestMetrics:
    def test_names(self):
        reports = []
        plain = PPO(policy_of("gpt2"), envs(), PPOConfig(**NUMBERS))
        plain.learn(2, callbacks=[reports.append])
        assert list(reports[0].metrics) == [
            *("iteration", "episodes", "tokens", "reward/mean", "reward/std", "text/length", "text/ended"),
            *("kl", "kl_per_token", "kl_coef", "critic/explained_variance"),
            *("policy/loss", "policy/approx_kl", "policy/clip_fraction", "policy/entropy"),
            *("critic/loss", "policy/ratio_error", "policy/sampling_error_max", "policy/sampling_error_mean"),
            *("grad_norm/policy", "grad_norm/critic"),
            *("time/collect", "time/score", "time/reference", "time/values", "time/learn", "time/other"),
            "tokens_per_second",
        ]
        assert [report.iteration for report in reports] == [1, 2]
        assert all(isinstance(value, int | float) for report in reports for value in report.metrics.values())

    def test_the_kl_of_a_token_is_over_tokens_of_the_policy(self):
        """The guide's tokens count in the length of texts, not here."""
        config = PPOPlusPlusConfig(rollin_prob=0.9, **NUMBERS)
        metrics = PPOPlusPlus(policy_of("gpt2"), policy_of("llama"), envs(), config).learn(2)[-1]
        policy_tokens = metrics["tokens"] * (1 - metrics["guide/token_share"])
        assert metrics["kl_per_token"] == pytest.approx(metrics["kl"] * metrics["episodes"] / policy_tokens)
        assert policy_tokens < 0.9 * metrics["tokens"]
        assert metrics["kl"] > 1e-4

    def test_before_its_first_update_an_agent_has_neither_drift_nor_ratio(self, family):
        reports = []
        agent = PPO(policy_of(family), envs(min_new_tokens=2), PPOConfig(temperature=0.8, **NUMBERS))
        agent.learn(2, callbacks=[reports.append])
        first, second = (report.metrics for report in reports)
        assert abs(first["kl"]) < 1e-4
        assert first["policy/ratio_error"] < 1e-4
        assert second["policy/ratio_error"] < 1e-4
        assert abs(second["kl"]) > 1e-4
        assert first["policy/approx_kl"] > 1e-6  # over the epochs it does move

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    def test_sampling_that_differs_from_scoring_warns_once(self, dtype, caplog):
        found = []
        for off in (0.0, 0.4):
            caplog.clear()
            policy = policy_of("gpt2", dtype=dtype)
            learner, plan = learner_of(policy), Plan(rollout=policy)
            for _ in range(2):
                trajectories = texts_of(plan)
                trajectories = replace(trajectories, old_logprobs=trajectories.old_logprobs + off)
                metrics = update(learner, trajectories, plan)
            assert len(caplog.records) == (off > 0)
            found.append((metrics["policy/sampling_error_mean"], metrics["policy/sampling_error_max"]))
        rounding = 0.1 if dtype == torch.bfloat16 else 1e-4
        assert max(found[0]) < rounding
        assert found[1] == pytest.approx((0.4, 0.4), abs=rounding)
        assert "differ from those at scoring by 0.4 nats" in caplog.text

    @pytest.mark.parametrize(("dtype", "rescored"), [(torch.bfloat16, True), (torch.float32, False)])
    def test_in_half_precision_old_logprobs_are_computed_again(self, dtype, rescored):
        """There a cached pass may round otherwise than a full one; here the recorded ones are off by 0.01."""
        errors = []
        for off in (0.0, 0.01):
            policy = policy_of("gpt2", dtype=dtype)
            learner, plan = learner_of(policy), Plan(rollout=policy)
            trajectories = texts_of(plan)
            trajectories = replace(trajectories, old_logprobs=trajectories.old_logprobs + off)
            errors.append(update(learner, trajectories, plan)["policy/ratio_error"])
        if rescored:
            assert errors[0] == errors[1] < 0.03  # rounding of batches of different shapes
        else:
            assert errors == pytest.approx([0.0, 0.01], abs=1e-3)

    def test_of_a_guides_critic(self):
        policy = policy_of("gpt2")
        learner = learner_of(policy)
        plan = Plan(rollout=OneToken(G), rollin=policy, rollin_prob=1.0, learn_on="rollin", critic="guide")
        metrics = update(learner, texts_of(plan), plan)
        assert {"guide_critic/loss", "guide_critic/explained_variance", "grad_norm/critic"} <= metrics.keys()
        assert not any(name.startswith("critic/") for name in metrics)
        assert learner.critic("guide")[0] is not learner.critic("policy")[0]

    def test_what_a_batch_is(self):
        reports = []
        policy = policy_of("gpt2")

        class Guided(PPO):
            def plan(self, iteration: int) -> Plan:
                return Plan(rollout=self.policy, rollin=OneToken(P), rollin_prob=0.5)

        Guided(policy, envs(), PPOConfig(**NUMBERS)).learn(1, callbacks=[reports.append])
        metrics, texts = reports[0].metrics, reports[0].trajectories
        rows = texts.switch > 0
        assert metrics["episodes"] == 16
        assert metrics["tokens"] == int(texts.is_token.sum())
        assert metrics["rollin/share"] == float(rows.double().mean())
        assert metrics["rollin/length"] == pytest.approx(int(texts.is_rollin.sum()) / int(rows.sum()))
        assert metrics["reward/mean"] == pytest.approx(float(texts.rewards.sum() / 16))
        assert metrics["text/length"] == pytest.approx(metrics["tokens"] / 16)
        assert metrics["tokens_per_second"] > 0
        assert all(value >= 0 for name, value in metrics.items() if name.startswith("time/"))


class TestACutDistribution:
    """Top-k and top-p in the policy cut what is drawn; log-probabilities, KL and ratios are those of the softmax."""

    @pytest.mark.filterwarnings("ignore:.*truncate the distribution that the policy samples")
    @pytest.mark.parametrize("cut", [{"top_k": 3}, {"top_p": 0.5}])
    def test_kl_is_that_of_the_whole_softmax(self, cut):
        reports = []
        agent = PPO(policy_of("gpt2"), envs(), PPOConfig(**NUMBERS | {"learning_rate": 1e-3}, **cut))
        agent.learn(3, callbacks=[reports.append])
        first = reports[0].metrics
        assert abs(first["kl"]) < 1e-4
        assert first["policy/sampling_error_max"] < 1e-4
        assert 0.05 < first["policy/cut_mass"] < 0.95
        # The controls: the policy draws from its cut, and it moves, but by far less than one excluded token would cost.
        assert all(0.001 < abs(report.metrics["kl"]) < 10.0 for report in reports[1:])
        values = torch.tensor([list(report.metrics.values()) for report in reports])
        assert values.isfinite().all()
        assert all(parameter.isfinite().all() for parameter in agent.policy.model.parameters())


class TestTarget:
    """The likelihood of a reference beside the reward."""

    @staticmethod
    def setting(target_coef: float, **numbers: Any) -> tuple[ActorCritic, Trajectories]:
        toy = gym.make_vec("tril/Toy-v0", num_envs=8, autoreset_mode="Disabled", rule="stop")
        layout = TextLayout.of(toy)
        model = language_model("gpt2", vocab_size=16, positions=20, dtype=torch.float64)
        policy = LMPolicy(model, layout.tokenizer)
        learner = ActorCritic(policy, PPOConfig(**NUMBERS | {"target_coef": target_coef} | numbers), layout)
        return learner, collect(toy, Plan(rollout=policy), episodes=8, generator=generator(1))

    @staticmethod
    def references(learner: ActorCritic, trajectories: Trajectories) -> Texts:
        return reference_texts(trajectories, ReferenceTokens(learner.layout), generator(2))

    @staticmethod
    def gradient(learner: ActorCritic, experience: Experience) -> Tensor:
        learner.epochs.gradients(experience, learner.critic("policy")[0])
        return torch.cat([parameter.grad.flatten() for parameter in learner.policy.parameters()])

    def test_its_gradient_is_that_of_the_token_mean_times_its_weight(self):
        learner, trajectories = self.setting(0.3)
        annotated = learner.credit.add_reference_and_values(trajectories, learner.critic("policy")[0])
        plain, targets = (
            learner.credit.experience(annotated, kl_coef=learner.kl_controller.coef),
            self.references(learner, trajectories),
        )
        without, both = (self.gradient(learner, replace(plain, targets=texts)) for texts in (None, targets))
        lengths = targets.lengths.tolist()
        assert len(set(lengths)) > 2

        def slow(weight_of_text: list[float]) -> Tensor:
            logprobs = [learner.policy.plain_logprobs(alone(targets, row)).sum() for row in range(8)]
            nll = -sum(weight * total for weight, total in zip(weight_of_text, logprobs, strict=True))
            return torch.cat([g.flatten() for g in torch.autograd.grad(0.3 * nll, learner.policy.parameters())])

        expected = slow([1 / sum(lengths)] * 8)
        assert float((both - without - expected).norm() / expected.norm()) < 1e-9
        # The control: a mean over texts is another.
        other = slow([1 / length / 8 for length in lengths])
        assert float((both - without - other).norm() / expected.norm()) > 1e-2

    def test_where_no_token_teaches_it_is_the_target_alone(self):
        numbers = {"epochs": 1, "max_grad_norm": 1e9, "ent_coef": 0.1}
        learner, trajectories = self.setting(1.0, **numbers)
        before = weights(learner)
        # A guide wrote everything.
        nothing = replace(trajectories, is_rollin=trajectories.is_token, switch=trajectories.lengths)
        metrics = update(learner, nothing, Plan(rollout=learner.policy))
        after = weights(learner)
        assert all(torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))  # the critic's
        assert not all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
        assert metrics["policy/loss"] == 0.0
        # It is imitation of the same references.
        other, _ = self.setting(0.0)
        draws = generator(2)
        targets = reference_texts(trajectories, ReferenceTokens(learner.layout), draws)
        wrote = replace(trajectories, tokens=targets.tokens, is_token=targets.is_token)
        imitation = BehaviourCloning(other.policy, BCConfig(**NUMBERS | {"epochs": 1, "max_grad_norm": 1e9}))
        figures = imitation.update(wrote, Plan(rollout=other.policy), generator=draws, timer=Timer())
        assert figures["policy/loss"] == pytest.approx(metrics["target/loss"], rel=1e-9)
        for ours, theirs in zip(after[0], weights(other)[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)

    def test_without_it_no_reference_is_read(self):
        learner, trajectories = self.setting(0.0)
        assert not learner.needs_references
        nameless = replace(trajectories, infos=[{} for _ in trajectories.infos])
        assert "target/loss" not in update(learner, nameless, Plan(rollout=learner.policy))

    def test_an_environment_without_tokenizer_is_refused_at_the_door(self):
        with pytest.raises(ValueError, match=r"references must be tokenised, but the environment shows no tokenizer"):
            PPO(policy_of("gpt2"), envs(), PPOConfig(target_coef=0.1))
        assert PPO(policy_of("gpt2"), envs(), PPOConfig(target_coef=0.0)).needs_references is False

    def test_examples_without_references_are_refused_by_name(self):
        learner, trajectories = self.setting(0.1)
        assert learner.needs_references
        trajectories.infos[3].pop("references")
        with pytest.raises(
            ValueError, match=rf"1 of 8 examples have no references .*{trajectories.infos[3]['prompt']}"
        ):
            update(learner, trajectories, Plan(rollout=learner.policy))
