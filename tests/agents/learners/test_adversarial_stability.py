"""What keeps adversarial learning stable: warm-up, a lazy discriminator, replay, gradient penalty, bounded rewards."""

from typing import Any

import gymnasium as gym
import pytest
import torch
from doubles import generator, language_model, learned
from test_adversarial import TokenSumDiscriminator, saved_classifier
from torch import Tensor

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import GAIL, GAILConfig, LMPolicy, TextLayout
from tril_gym.agents.learners.discriminator import AdapterDiscriminator, ClassifierDiscriminator
from tril_gym.functional.losses import discriminator_loss
from tril_gym.models.texts import Texts

NUMBERS = {"learning_rate": 1e-3, "minibatch_size": 8, "epochs": 1, "episodes_per_iteration": 16}


def agent_of(own: Any = None, *, lora_rank: int = 0, **numbers: Any) -> GAIL:
    envs = gym.make_vec("tril/Toy-v0", num_envs=16, autoreset_mode="Disabled", rule="stop")
    policy = LMPolicy(language_model("gpt2", vocab_size=16, positions=20), envs.unwrapped.tokenizer)
    policy = policy.with_lora(lora_rank) if lora_rank else policy
    return GAIL(policy, envs, GAILConfig(**NUMBERS | numbers), discriminator=own)


def run(agent: GAIL, iterations: int) -> list[Any]:
    reports: list[Any] = []
    agent.learn(iterations, callbacks=[reports.append])
    return reports


def steps(agent: GAIL, iterations: int) -> list[float]:
    return [report.metrics["discriminator/steps"] for report in run(agent, iterations)]


def policy_weights(agent: GAIL) -> list[Tensor]:
    return [weight.clone() for weight in agent.policy.model.state_dict().values()]


def discriminator_weights(agent: GAIL) -> list[Tensor]:
    return [weight.clone() for weight in agent.learner.discriminator.state_dict().values()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class TestWhenItLearns:
    def test_in_the_warmup_the_policy_stands_still(self):
        agent = agent_of(discriminator_warmup=2)
        start, discriminator = policy_weights(agent), discriminator_weights(agent)
        agent.learn(2)
        assert equal(policy_weights(agent), start)
        assert not equal(discriminator_weights(agent), discriminator)
        assert agent.learner.actor_critic.critic_updates["policy"] == 2
        agent.learn(1)
        assert not equal(policy_weights(agent), start)

    def test_every_third_iteration(self):
        assert steps(agent_of(discriminator_every=3), 5) == [2, 0, 0, 2, 0]
        assert steps(agent_of(), 3) == [2, 2, 2]

    def test_not_while_it_is_accurate(self):
        agent = agent_of(discriminator_accuracy=0.6, discriminator_epochs=20, discriminator_learning_rate=1e-2)
        taken = [report.metrics for report in run(agent, 6)]
        for metrics in taken:
            assert metrics["discriminator/steps"] == (0 if metrics["discriminator/accuracy"] > 0.6 else 40)
            assert ("discriminator/loss" in metrics) == (metrics["discriminator/steps"] > 0)
        assert {metrics["discriminator/steps"] for metrics in taken} == {0, 40}

    def test_an_accuracy_at_the_limit_is_trained(self):
        agent = agent_of(TokenSumDiscriminator(scale=0.0, shift=0.4), discriminator_accuracy=0.5)
        assert steps(agent, 1) == [2]  # half right: it takes every text for a reference
        agent = agent_of(TokenSumDiscriminator(scale=0.0, shift=0.4), discriminator_accuracy=0.49)
        assert steps(agent, 1) == [0]


class TestReplay:
    @staticmethod
    def shown(agent: GAIL, iterations: int) -> tuple[list[list[tuple[Texts, Texts]]], list[Any]]:
        """The minibatches of each iteration, references and texts of the policy, and the reports."""
        seen: list[list[tuple[Texts, Texts]]] = []
        step = agent.learner._step

        def recorded(experts: Texts, written: Texts, generator: torch.Generator) -> dict[str, float]:
            seen[-1].append((experts, written))
            return step(experts, written, generator)

        agent.learner._step = recorded  # type: ignore[method-assign]
        reports = []
        for _ in range(iterations):
            seen.append([])
            reports += run(agent, 1)
        return seen, reports

    @pytest.mark.parametrize("kept", [0, 1, 2])
    def test_texts_of_the_last_iterations_are_shown_again(self, kept):
        agent = agent_of(discriminator_replay=kept, discriminator_epochs=30, learning_rate=1e-2)
        seen, reports = self.shown(agent, 4)
        keys = [{tuple(map(tuple, (*p, *t))) for p, t in rows(report.trajectories.texts)} for report in reports]
        for iteration, minibatches in enumerate(seen):
            assert [len(experts) for experts, _ in minibatches] == [8] * 60  # as many steps as without
            shown = {tuple(map(tuple, (*p, *t))) for _, written in minibatches for p, t in rows(written)}
            first = max(0, iteration - kept)
            assert shown == set().union(*keys[first : iteration + 1])
            if iteration > kept:
                assert not keys[iteration - kept - 1] <= shown  # control: older texts are others

    def test_references_and_texts_have_the_same_prompts(self):
        seen, _ = self.shown(agent_of(discriminator_replay=2), 3)
        for experts, written in seen[-1]:
            assert torch.equal(experts.prompts, written.prompts)
            assert (experts.tokens != written.tokens).any(1).all()

    def test_old_and_new_are_drawn_alike(self):
        agent = agent_of()
        pairs = [(texts_of(value), texts_of(value)) for value in (1, 2, 3, 4)]
        object.__setattr__(agent.config, "discriminator_epochs", 400)
        drawn = torch.cat([experts.tokens[:, 0] for experts, _ in agent.learner._minibatches(pairs, generator())])
        shares = torch.bincount(drawn, minlength=5)[1:] / len(drawn)
        # 1600 draws of four kinds: a standard error of about .011
        torch.testing.assert_close(shares, torch.full((4,), 0.25), rtol=0, atol=0.05)

    def test_it_is_saved(self, tmp_path):
        agent = learned(agent_of(discriminator_replay=2), 2)
        agent.save(tmp_path)
        loaded, forgetful = (GAIL.load(tmp_path, envs=agent.envs) for _ in range(2))
        forgetful.learner.replay.clear()
        for one in (agent, loaded, forgetful):
            one.learn(1)
        assert equal(discriminator_weights(loaded), discriminator_weights(agent))
        assert not equal(discriminator_weights(forgetful), discriminator_weights(agent))


def rows(texts: Texts) -> list[tuple[list[list[int]], list[list[int]]]]:
    """Prompt and completion of each text."""
    return [([texts.prompt_ids(row)], [texts.completion_ids(row)]) for row in range(len(texts))]


def texts_of(value: int) -> Texts:
    """Four texts of one token."""
    return Texts.from_ids([[2]] * 4, [[value]] * 4, max_new_tokens=1)


class TestGradientPenalty:
    @pytest.fixture(params=["tiny", "bert", "gpt2"])
    def classifier(self, request, tmp_path) -> ClassifierDiscriminator:
        layout = TextLayout.of(agent_of().envs)
        if request.param == "tiny":
            return ClassifierDiscriminator.tiny(layout)
        return ClassifierDiscriminator.from_pretrained(str(saved_classifier(tmp_path, request.param)), layout)

    def test_the_gradients_predict_the_change_of_the_logit(self, classifier):
        texts = Texts.from_ids([[3, 4], [5]], [[6, 7, 8], [9]], max_new_tokens=8)
        logits, gradients = classifier.logits_and_gradients(texts)
        torch.testing.assert_close(logits, classifier.logits(texts), rtol=0, atol=1e-5)
        direction = gradients.detach() / gradients.detach().norm()

        def moved(step: float) -> Tensor:
            hook = classifier.model.get_input_embeddings().register_forward_hook(
                lambda module, inputs, output: output + step * direction
            )
            with torch.no_grad():
                result = classifier.logits(texts).sum()
            hook.remove()
            return result

        slope = (moved(1e-2) - moved(-1e-2)) / 2e-2
        assert float(slope) == pytest.approx(float(gradients.detach().norm()), rel=1e-2)
        assert float(gradients.detach().norm()) > 1e-2

    def test_it_flattens_the_logit_around_references(self, classifier):
        numbers = {"discriminator_epochs": 20, "discriminator_learning_rate": 1e-2, "max_grad_norm": 1e3}
        state = {name: weight.clone() for name, weight in classifier.state_dict().items()}
        penalties = []
        for gradient_penalty in (1e-6, 1.0):
            classifier.load_state_dict(state)
            agent = agent_of(classifier, gradient_penalty=gradient_penalty, **numbers)
            penalties.append(run(agent, 2)[-1].metrics["discriminator/gradient_penalty"])
        assert penalties[1] < 0.5 * penalties[0]

    def test_its_weight_multiplies_it_in_the_loss(self, classifier):
        agent = agent_of(classifier, gradient_penalty=0.7, max_grad_norm=1e9, discriminator_learning_rate=1e-30)
        experts, written = (Texts.from_ids([[3], [5]], [[word], [9]], max_new_tokens=8) for word in (6, 7))
        agent.learner._step(experts, written, torch.Generator())
        step = [parameter.grad.clone() for parameter in classifier.parameters() if parameter.grad is not None]
        classifier.model.zero_grad()
        logits, gradients = classifier.logits_and_gradients(experts)
        penalty = sum(0.5 * row.square().sum() for row in gradients) / 2
        (discriminator_loss(logits, classifier.logits(written)) + 0.7 * penalty).backward()
        expected = [parameter.grad for parameter in classifier.parameters() if parameter.grad is not None]
        torch.testing.assert_close(step, expected, rtol=1e-4, atol=1e-6)

    def test_discriminators_without_embeddings_of_their_own_are_refused(self):
        message = r"gradient_penalty is 0\.1, but .* only for tiny and sequence classifiers, not for "
        with pytest.raises(ValueError, match=message + "TokenSumDiscriminator"):
            agent_of(TokenSumDiscriminator(), gradient_penalty=0.1)
        with pytest.raises(ValueError, match=message + AdapterDiscriminator.__name__):
            agent_of(lora_rank=2, discriminator="adapter", gradient_penalty=0.1)
        agent_of(lora_rank=2, discriminator="adapter")


class TestRewards:
    LOGITS = torch.tensor([-3.0, -0.5, 0.5, 3.0])

    @pytest.mark.parametrize(
        ("form", "expected"),
        [("logit", [-1.0, -0.5, 0.5, 1.0]), ("probability", [0.26894, 0.37754, 0.62246, 0.73106])],  # σ(−1), σ(−½), …
    )
    def test_logits_are_clipped_before_the_form(self, form, expected):
        agent = agent_of(reward_clip=1.0, reward_form=form)
        torch.testing.assert_close(agent.learner._rewards(self.LOGITS), torch.tensor(expected), rtol=0, atol=1e-5)

    def test_without_a_clip_they_are_as_they_are(self):
        assert torch.equal(agent_of().learner._rewards(self.LOGITS), self.LOGITS)

    @pytest.mark.parametrize("normalize_reward", [False, True])
    def test_rewards_are_normalised_over_the_texts(self, normalize_reward):
        agent = agent_of(TokenSumDiscriminator(scale=3.0, shift=2.0), normalize_reward=normalize_reward)
        given, update = [], agent.learner.actor_critic.update

        def recorded(trajectories: Any, plan: Any, **parts: Any) -> dict[str, float]:
            given.append(trajectories.rewards.sum(1))
            return update(trajectories, plan, **parts)

        agent.learner.actor_critic.update = recorded  # type: ignore[method-assign]
        (report,) = run(agent, 1)
        logits = agent.learner.logits(report.trajectories.texts).double()
        assert report.metrics["discriminator/reward"] == pytest.approx(float(logits.mean()))
        expected = (logits - logits.mean()) / logits.std(correction=0) if normalize_reward else logits
        torch.testing.assert_close(given[0], expected, rtol=1e-6, atol=1e-6)
