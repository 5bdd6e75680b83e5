"""Adversarial learning: training data and loss of the discriminator, and the rewards made from its logits."""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from doubles import alone, foreign_envs, generator, language_model, learned
from doubles import policy_of as foreign_policy_of
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import GAIL, GAILConfig, LMPolicy, Plan, TextLayout, Trajectories
from tril_gym.agents.actors.references import References, ReferenceTokens, reference_texts
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.learners.adversarial import AdversarialLearner, with_rewards
from tril_gym.agents.learners.discriminator import AdapterDiscriminator, ClassifierDiscriminator, Discriminator
from tril_gym.data.example import Example
from tril_gym.data.examples import Examples
from tril_gym.envs.config import TextEnvConfig
from tril_gym.envs.text_vector_env import TextVectorEnv
from tril_gym.envs.toy import toy_tokenizer
from tril_gym.functional.returns import discriminator_rewards
from tril_gym.models.texts import Texts
from tril_gym.utils.profiler import Timer

V, T = 16, 8
NUMBERS = {"learning_rate": 1e-3, "minibatch_size": 16, "epochs": 1, "kl_coef": 0.0, "episodes_per_iteration": 16}
NUMBERS["temperature"] = 4.0  # so that texts end early
STILL = {"discriminator_learning_rate": 1e-30}  # so that a test double does not change


def toy_envs(rule: str = "stop") -> VectorEnv:
    return gym.make_vec("tril/Toy-v0", num_envs=16, autoreset_mode="Disabled", rule=rule)


def policy_of(seed: int = 0, dtype: torch.dtype = torch.float32) -> LMPolicy:
    model = language_model("gpt2", vocab_size=V, positions=20, seed=seed, dtype=dtype)
    return LMPolicy(model, toy_envs().unwrapped.tokenizer)


class TokenSumDiscriminator:
    """A discriminator whose logit is a function of the sum of a text's tokens, easy to compute by hand."""

    def __init__(self, scale: float = 0.7, shift: float = 0.4) -> None:
        self.theta = nn.Parameter(torch.tensor([scale, shift], dtype=torch.float64))
        self.read: list[Texts] = []

    def logits(self, texts: Texts) -> Tensor:
        self.read.append(texts)
        sums = torch.where(texts.is_token, texts.tokens, 0).sum(1)
        return self.theta[0] * (sums % 7 - 3) + self.theta[1]

    def parameters(self) -> list[nn.Parameter]:
        return [self.theta]

    def state_dict(self) -> dict[str, Tensor]:
        return {"theta": self.theta.detach().clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.theta.data.copy_(state["theta"])


class Setting:
    """A learner, texts of many lengths by its policy, and the trajectories that its actor-critic receives."""

    def __init__(self, own: Discriminator | None = None, *, rule: str = "stop", **numbers: Any) -> None:
        self.envs = toy_envs(rule)
        config = GAILConfig(**NUMBERS | numbers)
        self.policy = policy_of().with_decoding(config.decoding())
        self.learner = AdversarialLearner(self.policy, config, TextLayout.of(self.envs))
        if own is not None:
            self.learner.set_discriminator(own)
        self.plan = Plan(rollout=self.policy)
        self.texts = collect(self.envs, self.plan, episodes=16, generator=generator(3))
        assert len(set(self.texts.lengths.tolist())) > 2
        self.received: list[Trajectories] = []
        learn = self.learner.actor_critic.update

        def update(trajectories: Trajectories, plan: Plan, **parts: Any) -> dict[str, float]:
            self.received.append(trajectories)
            return learn(trajectories, plan, **parts)

        self.learner.actor_critic.update = update  # type: ignore[method-assign]

    def update(self, texts: Trajectories | None = None, seed: int = 2) -> dict[str, float]:
        texts = self.texts if texts is None else texts
        return self.learner.update(texts, self.plan, generator=generator(seed), timer=Timer())

    def experts(self, seed: int = 2) -> Texts:
        return reference_texts(self.texts, ReferenceTokens(self.learner.actor_critic.layout), generator(seed))

    @property
    def weights(self) -> list[Tensor]:
        critic, _ = self.learner.actor_critic.critic("policy")
        states = self.policy.language_model.state_dict(), critic.state_dict(), self.learner.discriminator.state_dict()
        return [weight.clone() for state in states for weight in state.values()]


def equal(one: Iterable[Tensor], other: Iterable[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


class TestReward:
    def test_by_hand(self):
        # Texts of 3, 1 and 2 tokens: each reward is in its own row, at the last token of its text.
        texts = Setting().texts[torch.tensor([0, 1, 2])]
        is_token = torch.arange(T) < torch.tensor([[3], [1], [2]])
        rewards = with_rewards(replace(texts, is_token=is_token), torch.tensor([0.5, -2.0, 7.0])).rewards
        expected = torch.zeros(3, T, dtype=torch.float64)
        expected[0, 2], expected[1, 0], expected[2, 1] = 0.5, -2.0, 7.0
        assert torch.equal(rewards, expected)

    def test_a_text_that_was_cut_off_earns_nothing(self):
        # It bootstraps from the value after its end; with a reward beside that, values would grow without bound.
        texts = Setting().texts[torch.tensor([0, 1])]
        texts = replace(texts, truncated=torch.tensor([True, True]), terminated=torch.tensor([False, True]))
        rewards = with_rewards(texts, torch.tensor([2.0, 3.0])).rewards
        assert rewards.sum(1).tolist() == [0.0, 3.0]

    @pytest.mark.parametrize("form", ["logit", "gail", "probability"])
    def test_each_text_gets_its_own_reward(self, form):
        discriminator = TokenSumDiscriminator()
        s = Setting(discriminator, reward_form=form, **STILL)
        metrics = s.update()
        (received,) = s.received
        expected = torch.zeros_like(s.texts.rewards)
        for row, length in enumerate(s.texts.lengths.tolist()):
            logits_of = discriminator.logits(alone(s.texts.texts, row)).detach()
            expected[row, length - 1] = discriminator_rewards(logits_of, form=form)[0]
        torch.testing.assert_close(received.rewards, expected, rtol=1e-12, atol=0)
        assert metrics["discriminator/reward"] == pytest.approx(float(expected.sum()) / 16)
        # The control: rewards of a whole column differ from those at last tokens.
        slip = torch.zeros_like(expected)
        for row, length in enumerate(s.texts.lengths.tolist()):
            slip[:, length - 1] = expected[row, length - 1]
        assert not torch.allclose(received.rewards, slip)
        assert len(set(expected.sum(1).tolist())) > 3

    def test_only_rewards_change(self):
        s = Setting()
        s.update()
        for name in ("prompts", "tokens", "is_token", "is_rollin", "old_logprobs", "terminated", "truncated", "switch"):
            assert torch.equal(getattr(s.received[0], name), getattr(s.texts, name))

    def test_rewards_come_after_the_discriminators_update(self):
        discriminator = TokenSumDiscriminator()
        s = Setting(discriminator, discriminator_learning_rate=0.1, discriminator_epochs=3)
        before = s.learner.logits(s.texts.texts)
        s.update()
        after = s.learner.logits(s.texts.texts)
        assert (after - before).abs().min() > 1e-3
        torch.testing.assert_close(s.received[0].rewards.sum(1), after, rtol=1e-12, atol=0)

    @pytest.mark.parametrize("form", ["logit", "gail", "probability"])
    def test_the_reward_of_the_reference_is_its_baseline(self, form):
        settings = {"reward_form": form, "reward_clip": 1.5, "discriminator_learning_rate": 0.1}
        plain, less = (Setting(TokenSumDiscriminator(), reference_baseline=on, **settings) for on in (False, True))
        metrics = [s.update() for s in (plain, less)]
        assert metrics[0]["discriminator/reward"] == metrics[1]["discriminator/reward"]  # before the baseline
        logits = less.learner.logits(less.experts())
        assert len(set(logits.clamp(-1.5, 1.5).tolist())) > 2
        expected = discriminator_rewards(logits.clamp(-1.5, 1.5), form=form)
        paid = (plain.received[0].rewards - less.received[0].rewards).sum(1)
        torch.testing.assert_close(paid, expected.double(), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("other", [{"positive_only": True}, {"discriminator_level": "token"}])
    def test_a_baseline_needs_one_reference_for_every_text(self, other):
        with pytest.raises(ValueError, match=f"reference_baseline needs.*{next(iter(other))}.*leave one of them out"):
            GAILConfig(reference_baseline=True, **other)

    @pytest.mark.parametrize("garbage", [1e6, math.nan])
    def test_rewards_of_the_environment_are_ignored(self, garbage):
        one, other = Setting(), Setting()
        metrics = one.update()
        changed = other.update(replace(other.texts, rewards=torch.full_like(other.texts.rewards, garbage)))
        assert equal(one.weights, other.weights)
        assert changed == metrics
        # The control: the actor-critic does learn from other rewards.
        third = Setting()
        third.learner.actor_critic.update(
            replace(third.texts, rewards=third.texts.rewards + 1.0), third.plan, generator=generator(2), timer=Timer()
        )
        assert not equal(
            third.policy.language_model.state_dict().values(), one.policy.language_model.state_dict().values()
        )

    def test_kl_penalty_is_in_the_advantages(self):
        # γ = 1, λ = 0 and a critic that returns 0: each token's advantage is its reward.
        numbers = {"kl_coef": 0.3, "gae_lambda": 0.0, "gamma": 1.0}
        s = Setting(TokenSumDiscriminator(), **STILL, **numbers)
        credit = s.learner.actor_critic.credit
        credit.ref_policy = policy_of(seed=3).with_decoding(s.policy.decoding)
        made = []
        experience_of = credit.experience

        def experience(trajectories: Trajectories, *, kl_coef: float) -> Any:
            made.append((trajectories, experience_of(trajectories, kl_coef=kl_coef)))
            return made[-1][1]

        credit.experience = experience  # type: ignore[method-assign]
        metrics = s.update()
        ((annotated, learned),) = made
        assert annotated.ref_logprobs is not None
        drift = torch.where(annotated.is_token, annotated.old_logprobs - annotated.ref_logprobs, 0.0)
        torch.testing.assert_close(learned.advantages.double(), s.received[0].rewards - 0.3 * drift, rtol=0, atol=1e-4)
        assert drift.abs().max() > 1.0
        assert metrics["kl"] == pytest.approx(float(drift.sum()) / 16, rel=1e-4)


class TestDiscriminatorUpdate:
    @pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
    def test_loss_takes_logits(self, label_smoothing):
        discriminator = TokenSumDiscriminator(scale=2.0)
        s = Setting(discriminator, label_smoothing=label_smoothing, **STILL)
        metrics = s.update()
        experts, written = discriminator.logits(s.experts()).tolist(), discriminator.logits(s.texts.texts).tolist()

        def cross_entropy(expert_shares: list[float], policy_shares: list[float]) -> float:
            nats = 0.0
            for shares, y in ((expert_shares, 1 - label_smoothing / 2), (policy_shares, label_smoothing / 2)):
                nats -= sum(y * math.log(d) + (1 - y) * math.log(1 - d) for d in shares)
            return nats / 32

        once = [[sigmoid(logit) for logit in logits] for logits in (experts, written)]
        assert metrics["discriminator/loss"] == pytest.approx(cross_entropy(*once), rel=1e-12)
        # The control: a probability where the loss expects a logit.
        twice = [[sigmoid(share) for share in shares] for shares in once]
        assert abs(cross_entropy(*twice) - metrics["discriminator/loss"]) > 0.02

    def test_metrics_are_those_before_the_update(self):
        discriminator = TokenSumDiscriminator()
        s = Setting(discriminator, discriminator_learning_rate=0.5, discriminator_epochs=5)
        experts, written = discriminator.logits(s.experts()).tolist(), discriminator.logits(s.texts.texts).tolist()
        metrics = s.update()
        right = sum(logit > 0 for logit in experts) + sum(logit <= 0 for logit in written)
        assert metrics["discriminator/accuracy"] == right / 32
        assert metrics["discriminator/expert_score"] == pytest.approx(sum(map(sigmoid, experts)) / 16)
        assert metrics["discriminator/policy_score"] == pytest.approx(sum(map(sigmoid, written)) / 16)
        assert discriminator.theta[0].item() != pytest.approx(0.7, abs=0.05)

    def test_a_logit_of_0_says_that_the_policy_wrote_a_text(self):
        metrics = Setting(TokenSumDiscriminator(scale=0.0, shift=0.0)).update()
        assert metrics["discriminator/accuracy"] == 0.5

    def test_names_of_metrics(self):
        metrics = Setting().update()
        assert list(metrics)[:6] == [
            *("discriminator/loss", "grad_norm/discriminator", "discriminator/accuracy"),
            *("discriminator/expert_score", "discriminator/policy_score", "discriminator/steps"),
        ]
        assert {"kl", "policy/loss", "critic/loss", "policy/ratio_error"} <= metrics.keys()
        for name in ("accuracy", "expert_score", "policy_score"):
            assert 0.0 <= metrics[f"discriminator/{name}"] <= 1.0

    def test_accuracy_increases(self):
        s = Setting(discriminator_epochs=20)
        accuracies = [s.update()["discriminator/accuracy"] for _ in range(3)]
        assert accuracies[0] < 0.8
        assert accuracies[-1] > 0.95

    @pytest.mark.parametrize("rule", ["stop", "count"])
    def test_accuracy_is_half_for_equal_texts(self, rule):
        # "stop": texts with EOS. "count": texts of full length, without EOS.
        s = Setting(rule=rule, discriminator_epochs=5)
        wrote = collect(s.envs, Plan(rollout=References()), episodes=16, generator=generator(1))
        assert {bool(row.any()) for row in (wrote.tokens == 1) & wrote.is_token} == {rule == "stop"}
        s.texts = wrote
        for own, expert in zip(as_tensors(wrote.texts), as_tensors(s.experts()), strict=True):
            assert torch.equal(own, expert)
        for _ in range(3):
            metrics = s.update()
            assert metrics["discriminator/accuracy"] == 0.5
            assert metrics["discriminator/expert_score"] == metrics["discriminator/policy_score"]
        # The best prediction is ½.
        assert metrics["discriminator/loss"] > math.log(2) - 1e-6

    def test_minibatches_have_both_classes_of_the_same_prompts(self):
        discriminator = TokenSumDiscriminator()
        s = Setting(discriminator, minibatch_size=4, discriminator_epochs=2)
        s.update()
        steps = discriminator.read[8:24]  # after the metrics of 16 + 16 texts, and before the logits
        assert [len(texts) for texts in steps] == [4] * 16
        for experts, written in zip(steps[::2], steps[1::2], strict=True):
            assert torch.equal(experts.prompts, written.prompts)
            assert not torch.equal(experts.tokens, written.tokens)
        shown = torch.cat([texts.tokens for texts in steps[1:8:2]])  # an epoch
        assert sorted(shown.tolist()) == sorted(s.texts.tokens.tolist())


def as_tensors(texts: Texts) -> tuple[Tensor, ...]:
    return texts.prompts, texts.is_prompt, texts.tokens, texts.is_token


class TestPositiveOnly:
    @staticmethod
    def labelled(texts: Trajectories, labels: list[Any]) -> Trajectories:
        infos = [
            info | {"extras": {} if label is None else {"label": label}}
            for info, label in zip(texts.infos, labels, strict=True)
        ]
        return replace(texts, infos=infos)

    def test_both_classes_are_of_positive_examples(self):
        discriminator = TokenSumDiscriminator()
        s = Setting(discriminator, positive_only=True)
        labels = [1, 0, None, 1, 2, 0, 1] + [0] * 9
        s.update(self.labelled(s.texts, labels))
        experts, written, *_ = discriminator.read
        rows = torch.tensor([0, 3, 6])
        assert torch.equal(written.tokens, s.texts.tokens[rows])
        assert torch.equal(experts.prompts, s.texts.prompts[rows])
        # Every text has a reward.
        assert int((s.received[0].rewards != 0).sum()) == 16

    def test_without_it_all_examples_are_used(self):
        discriminator = TokenSumDiscriminator()
        s = Setting(discriminator)
        s.update(self.labelled(s.texts, [0] * 16))
        assert len(discriminator.read[0]) == len(discriminator.read[1]) == 16

    @pytest.mark.parametrize("label", [0, None])
    def test_iteration_without_positive_examples_is_refused(self, label):
        s = Setting(positive_only=True)
        before = s.weights
        with pytest.raises(ValueError, match=r"positive_only needs examples labelled 1, but none of the 16 texts is"):
            s.update(self.labelled(s.texts, [label] * 16))
        assert equal(s.weights, before)

    def test_labels_come_from_the_environment(self):
        examples = [Example(f"w{2 + i}", ("w3 w4",), label=i % 2) for i in range(8)]
        problem = TextEnvConfig(
            Examples(examples, source="here"), toy_tokenizer(V), max_prompt_length=4, max_new_tokens=T
        )
        envs = TextVectorEnv(problem, 16, autoreset_mode="Disabled")
        discriminator = TokenSumDiscriminator()
        agent = GAIL(policy_of(), envs, GAILConfig(**NUMBERS, positive_only=True), discriminator=discriminator)
        reports: list[Any] = []
        agent.learn(1, callbacks=[reports.append])
        labels = [info["extras"]["label"] for info in reports[0].trajectories.infos]
        assert 0 < labels.count(1) < 16
        assert len(discriminator.read[0]) == labels.count(1)


@pytest.fixture(params=["tiny", "bert", "gpt2"])
def classifier(request, tmp_path) -> ClassifierDiscriminator:
    """Return a new classifier of the environment's ids, or a saved one that reads text."""
    layout = TextLayout.of(toy_envs())
    if request.param == "tiny":
        return ClassifierDiscriminator.tiny(layout)
    return ClassifierDiscriminator.from_pretrained(str(saved_classifier(tmp_path, request.param)), layout)


def saved_classifier(folder: Path, kind: str = "bert", *, labels: int = 1, positions: int = 32) -> Path:
    """Save a classifier whose tokenizer has other ids for the toy environment's words."""
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    words = ["[PAD]", "[UNK]", *(f"w{word}" for word in reversed(range(2, V)))]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    special = {"pad_token": "[PAD]"} if kind == "bert" else {"eos_token": "[PAD]"}  # GPT-2 has no padding token
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    sizes = {"vocab_size": len(words), "num_labels": labels, "initializer_range": 0.5}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "bert":
            shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
            config = transformers.BertConfig(max_position_embeddings=positions, **shape, **sizes)
            model = transformers.BertForSequenceClassification(config)
        else:
            config = transformers.GPT2Config(n_positions=positions, n_embd=16, n_layer=1, n_head=2, **sizes)
            model = transformers.GPT2ForSequenceClassification(config)
    model.save_pretrained(folder)
    return folder


class TestClassifiers:
    def test_logits_do_not_depend_on_batch_and_padding(self, classifier):
        texts = Setting().texts.texts
        together = classifier.logits(texts)
        assert together.shape == (16,)
        assert together.std() > 0.01
        single = torch.cat([classifier.logits(alone(texts, row)) for row in range(16)])
        torch.testing.assert_close(single, together, rtol=0, atol=1e-5)
        noise = torch.randint(2, V, texts.tokens.shape, generator=generator(9))
        filled = replace(
            texts,
            tokens=torch.where(texts.is_token, texts.tokens, noise),
            prompts=torch.where(texts.is_prompt, texts.prompts, 5),
        )
        assert torch.equal(classifier.logits(filled), together)
        # The control: another completion has another logit.
        written = replace(texts, tokens=(texts.tokens + texts.is_token.long()).clamp(max=V - 1))
        assert not torch.allclose(classifier.logits(written), together, atol=1e-3)

    def test_logits_depend_on_the_prompt(self, classifier):
        texts = Setting().texts.texts
        others = replace(texts, prompts=torch.where(texts.is_prompt, 2 + (texts.prompts + 3) % 14, 0))
        assert (classifier.logits(others) - classifier.logits(texts)).abs().max() > 1e-3

    def test_it_learns(self, classifier):
        s = Setting(classifier, discriminator_epochs=30, discriminator_learning_rate=1e-2)
        accuracies = [s.update()["discriminator/accuracy"] for _ in range(2)]
        assert accuracies[-1] > 0.9 > accuracies[0]

    def test_saved_classifier_reads_the_text(self, tmp_path):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        folder = saved_classifier(tmp_path)
        s = Setting(discriminator=str(folder))
        model, tokenizer = (
            AutoModelForSequenceClassification.from_pretrained(folder),
            AutoTokenizer.from_pretrained(folder),
        )
        written = s.learner.logits(s.texts.texts)
        with torch.no_grad():
            for row, info in enumerate(s.texts.infos):
                read = tokenizer(f"{info['prompt']} {info['completion']}".strip(), return_tensors="pt")
                assert written[row].item() == pytest.approx(model.eval()(**read).logits.item(), abs=1e-5)
                assert info["completion"].replace(" ", "").startswith("w") or not info["completion"]

    def test_long_texts_are_truncated_at_the_beginning(self, tmp_path):
        s = Setting(discriminator=str(saved_classifier(tmp_path, positions=4)))
        (row,) = (s.texts.lengths == T).nonzero()[0].tolist()
        text = alone(s.texts.texts, row)
        logits_of = s.learner.discriminator.logits(text)
        begins, ends = text.tokens.clone(), text.tokens.clone()
        begins[0, 0], ends[0, -2] = 2 + (begins[0, 0] + 1) % 14, 2 + (ends[0, -2] + 1) % 14
        assert torch.equal(s.learner.discriminator.logits(replace(text, tokens=begins)), logits_of)
        assert not torch.equal(s.learner.discriminator.logits(replace(text, tokens=ends)), logits_of)

    def test_new_head_does_not_use_the_global_generator(self, tmp_path):
        folder, layout = saved_classifier(tmp_path, labels=3), TextLayout.of(toy_envs())
        logits = []
        for seed in (1, 2):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                before = torch.get_rng_state()
                new = ClassifierDiscriminator.from_pretrained(str(folder), layout)
                assert torch.equal(torch.get_rng_state(), before)
            logits.append(new.logits(Setting().texts.texts))
        assert torch.equal(*logits)
        assert logits[0].shape == (16,)

    def test_more_than_one_logit_is_refused(self, tmp_path):
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained(saved_classifier(tmp_path, labels=2))
        with pytest.raises(ValueError, match=r"a discriminator has one logit, the classifier has 2; load it with num_"):
            ClassifierDiscriminator(model, None, TextLayout.of(toy_envs()))

    def test_text_in_an_environment_without_tokenizer_is_refused(self, tmp_path):
        layout = TextLayout.of(foreign_envs(2))
        with pytest.raises(ValueError, match=r"reads text needs an environment with a tokenizer attribute"):
            ClassifierDiscriminator.from_pretrained(str(saved_classifier(tmp_path)), layout)

    @pytest.mark.parametrize("name", ["./nothing/here", "nothing"])
    def test_folders_without_classifier_are_refused(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "nothing").mkdir()
        with pytest.raises(
            ValueError, match=rf"no sequence classifier could be loaded as '{name}'; give the folder or"
        ):
            Setting(discriminator=name)


class TestAdapter:
    def test_training_does_not_change_the_policy(self):
        s = Setting(discriminator_epochs=25, discriminator_learning_rate=3e-2)
        policy = policy_of().with_lora(2)
        texts, experts = s.texts.texts, s.experts()
        discriminator = AdapterDiscriminator(policy)
        s.learner.set_discriminator(discriminator)
        before = policy.token_logprobs(texts, s.learner.actor_critic.layout).logprobs
        assert torch.equal(discriminator.logits(texts), torch.zeros(16))  # untrained
        s.learner._update_discriminator(experts, texts, generator(0))
        assert s.learner._update_discriminator(experts, texts, generator(0))["discriminator/accuracy"] > 0.9
        assert torch.equal(policy.token_logprobs(texts, s.learner.actor_critic.layout).logprobs, before)
        # The last token changes the logit, padding after it does not.
        logits = discriminator.logits(texts)
        is_last = torch.arange(T) == texts.lengths.unsqueeze(1) - 1
        last = replace(texts, tokens=torch.where(is_last, 2 + texts.tokens % 14, texts.tokens))
        assert (discriminator.logits(last) != logits).all()
        after = replace(texts, tokens=torch.where(texts.is_token, texts.tokens, 9))
        torch.testing.assert_close(discriminator.logits(after), logits, rtol=0, atol=1e-5)

    def test_policy_without_adapter_is_refused(self):
        with pytest.raises(ValueError, match="needs a LoRA policy"):
            Setting(discriminator="adapter")


class TestGAIL:
    def agent(self, **numbers: Any) -> GAIL:
        config = GAILConfig(**NUMBERS | {"learning_rate": 1e-3, "kl_coef": 0.01} | numbers)
        return GAIL(policy_of(), toy_envs(), config)

    @staticmethod
    def state(agent: GAIL) -> list[Tensor]:
        return [*agent.policy.language_model.state_dict().values(), *agent.learner.discriminator.state_dict().values()]

    @pytest.mark.parametrize("discriminator", ["tiny", "folder"])
    def test_loaded_agent_continues_exactly(self, discriminator, tmp_path):
        if discriminator == "folder":
            discriminator = str(saved_classifier(tmp_path / "classifier"))
        straight, stopped = (self.agent(discriminator=discriminator) for _ in range(2))
        start = straight.learner.discriminator.state_dict()
        start = {name: weight.clone() for name, weight in start.items()}
        straight.learn(3)
        learned(stopped, 2).save(tmp_path / "run")
        loaded, without_moments, without_weights = (GAIL.load(tmp_path / "run", envs=toy_envs()) for _ in range(3))
        assert equal(self.state(loaded), self.state(stopped))
        assert equal(self.state(learned(loaded, 1)), self.state(straight))
        # The controls: both weights and moments of the discriminator matter.
        without_moments.learner.optimizer.state.clear()
        without_weights.learner.discriminator.load_state_dict(start)
        assert not equal(self.state(learned(without_moments, 1)), self.state(straight))
        assert not equal(self.state(learned(without_weights, 1)), self.state(straight))

    def test_discriminator_of_the_user(self, tmp_path):
        discriminator = TokenSumDiscriminator()
        agent = GAIL(policy_of(), toy_envs(), GAILConfig(**NUMBERS), discriminator=discriminator)
        agent.learn(1)
        assert agent.learner.discriminator is discriminator
        assert discriminator.theta[0].item() != 0.7
        agent.save(tmp_path / "run")
        again = TokenSumDiscriminator()
        GAIL.load(tmp_path / "run", envs=toy_envs(), discriminator=again)
        assert torch.equal(again.theta, discriminator.theta)

    def test_score_of_the_task_is_only_logged(self):
        reports: list[Any] = []
        agent = GAIL(policy_of(), toy_envs("count"), GAILConfig(**NUMBERS))
        agent.learn(1, callbacks=[reports.append])
        metrics, texts = reports[0].metrics, reports[0].trajectories
        assert metrics["reward/mean"] == pytest.approx(float(texts.rewards.sum()) / 16)
        assert metrics["reward/mean"] != pytest.approx(metrics["discriminator/reward"])
        assert metrics["time/discriminator"] > 0

    def test_environment_without_tokenizer_is_refused(self):
        with pytest.raises(ValueError, match=r"references must be tokenised, but the environment shows no tokenizer"):
            GAIL(foreign_policy_of("gpt2"), foreign_envs(4), GAILConfig(**NUMBERS))

    def test_examples_without_references_are_refused(self):
        s = Setting()
        s.texts.infos[5]["references"] = []
        with pytest.raises(ValueError, match=r"1 of 16 examples have no references"):
            s.update()
