"""GAIL with a discriminator of tokens: what it reads, what is rewarded, and exact resuming."""

import itertools
from dataclasses import replace

import pytest
import torch
from doubles import generator, history, policy_of, toy_envs

from tril_gym.agents import GAIL, GAILConfig, Guide, Plan, TextLayout, collect
from tril_gym.agents.learners.adversarial import with_rewards
from tril_gym.agents.learners.discriminator import ClassifierDiscriminator
from tril_gym.agents.learners.token_discriminator import TokenAdapter, TokenClassifier
from tril_gym.functional.losses import discriminator_loss, gradient_penalty
from tril_gym.models.texts import Texts

NUMBERS = {"learning_rate": 1e-3, "minibatch_size": 8, "check_model": False}


def agent_of(policy=None, **numbers):
    config = GAILConfig(**NUMBERS | {"discriminator_level": "token"} | numbers)
    return GAIL(policy or policy_of(vocab_size=16), toy_envs(12), config)


def written(episodes=12):
    return collect(toy_envs(12), Plan(rollout=policy_of(vocab_size=16)), episodes=episodes, generator=generator())


def adapter(layout):
    found = TokenAdapter(policy_of(vocab_size=16).with_lora(2))
    for parameter in found.parameters():  # untrained, its head is 0
        torch.nn.init.normal_(parameter, generator=generator(1))
    return found


@pytest.mark.parametrize("make", [TokenClassifier, adapter], ids=["tiny", "adapter"])
@torch.no_grad()
def test_a_logit_depends_on_its_token_and_those_before(make):
    texts, layout = written().texts, TextLayout.of(toy_envs(1))
    discriminator = make(layout)
    logits = discriminator.logits(texts)
    other = replace(texts, tokens=texts.tokens.scatter(1, torch.full((12, 1), 3), 2 + (texts.tokens[:, 3:4] + 1) % 14))
    moved = (discriminator.logits(other) - logits).abs()
    rows = texts.lengths > 4
    assert float(moved[:, :3].max()) < 1e-5  # the future changes nothing
    assert bool((moved[rows, 3] > 1e-5).all())
    padded = replace(texts, tokens=torch.where(texts.is_token, texts.tokens, 9))
    again = discriminator.logits(padded)[texts.is_token]
    torch.testing.assert_close(again, logits[texts.is_token], rtol=0, atol=1e-5)
    single = torch.cat([discriminator.logits(texts[torch.tensor([row])].trimmed()).flatten() for row in range(12)])
    torch.testing.assert_close(single, logits[texts.is_token], rtol=0, atol=1e-4)  # whatever the batch


def test_classes_weigh_alike_by_hand():
    # Logits 0: log 2 of each, in parts as in the whole. Expert logits (1, 1, 1) and one of 2 of the policy:
    # ½ (softplus(−1) + softplus(2)) = ½ (.313262 + 2.126928); all alike it would be (3 · .313262 + 2.126928)/4.
    expert, policy = torch.ones(3), torch.tensor([2.0])
    assert discriminator_loss(expert, policy, counts=(3, 1)).item() == pytest.approx(1.220095, abs=1e-5)
    assert discriminator_loss(expert, policy).item() == pytest.approx(0.766678, abs=1e-5)
    parts = discriminator_loss(expert[:1], policy, counts=(3, 1)) + discriminator_loss(
        expert[1:], policy[:0], counts=(3, 1)
    )
    assert parts.item() == pytest.approx(1.220095, abs=1e-5)


def test_the_penalty_is_the_mean_squared_gradient_of_the_tokens_logits():
    # The mean over all signs is exact: the other products of two gradients cancel.
    texts = Texts.from_ids([[3, 4]], [[5, 6, 7]], max_new_tokens=3)
    discriminator = TokenClassifier(TextLayout.of(toy_envs(1)))
    expected = 0.0
    for column in range(3):
        (gradients,) = discriminator.logits_and_gradients(texts, torch.eye(3)[None, column])[1]
        expected += 0.5 * gradients.square().sum().item() / 3
    penalties = [
        gradient_penalty(discriminator.logits_and_gradients(texts, torch.tensor([signs]))[1], count=3).item()
        for signs in itertools.product((-1.0, 1.0), repeat=3)
    ]
    assert sum(penalties) / 8 == pytest.approx(expected, rel=1e-5)
    assert penalties[-1] != pytest.approx(expected, rel=0.05)  # control: without signs it is another number


def test_the_penalty_flattens_the_logits_of_references():
    numbers = {"discriminator_epochs": 20, "discriminator_learning_rate": 1e-2, "max_grad_norm": 1e3}
    weak, strong = (
        history(agent_of(gradient_penalty=weight, **numbers), 1)[-1]["discriminator/gradient_penalty"]
        for weight in (1e-6, 1.0)
    )
    assert strong < 0.5 * weak


def test_the_penalty_of_a_step_is_a_mean_over_tokens():
    agent = agent_of(gradient_penalty=0.5, discriminator_learning_rate=1e-30)
    experts, others = (Texts.from_ids([[3], [4]], ids, max_new_tokens=8) for ids in ([[5, 6, 7], [8]], [[9], [9, 2]]))
    step = agent.learner._step(experts, others, generator(3))
    signs = agent.learner._signs(experts, generator(3))
    _, gradients = agent.learner.discriminator.logits_and_gradients(experts, signs)
    assert step["discriminator/gradient_penalty"] == pytest.approx(0.5 * gradients.square().sum().item() / 4, rel=1e-5)


class TokenLogits:
    """A discriminator with a logit of each token, easy to compute by hand, and large logits on padding."""

    def __init__(self):
        self.theta = torch.nn.Parameter(torch.tensor([0.5], dtype=torch.float64))

    def logits(self, texts):
        return torch.where(texts.is_token, self.theta * (texts.tokens % 5 - 2), 1e3)

    def parameters(self):
        return [self.theta]


@pytest.mark.parametrize("normalize_reward", [False, True])
def test_rewards_are_clipped_and_padding_counts_nowhere(normalize_reward):
    settings = {"reward_clip": 0.7, "normalize_reward": normalize_reward, "discriminator_learning_rate": 1e-30}
    agent = agent_of(temperature=4.0, **settings)
    agent.learner.set_discriminator(TokenLogits())
    update, received = agent.learner.actor_critic.update, []

    def recorded(trajectories, plan, **options):
        received.append(trajectories)
        return update(trajectories, plan, **options)

    agent.learner.actor_critic.update = recorded
    (row,) = history(agent, 1)
    (texts,) = received
    assert not texts.is_token.all()
    logits = 0.5 * (texts.tokens % 5 - 2)[texts.is_token].double()  # −1, −½, 0, ½ or 1
    clipped = logits.clamp(-0.7, 0.7)
    whitened = (clipped - clipped.mean()) / clipped.std(correction=0)
    expected = whitened if normalize_reward else clipped
    torch.testing.assert_close(texts.rewards[texts.is_token], expected, rtol=0, atol=1e-6)
    assert row["discriminator/reward"] == pytest.approx(float(clipped.mean()))
    assert row["discriminator/policy_score"] == pytest.approx(float(logits.sigmoid().mean()))
    assert row["discriminator/loss"] < 2  # nats: one token of padding among the policy's would cost a thousand


def test_every_token_gets_its_own_logit_as_reward():
    agent = agent_of(kl_coef=0.0, gamma=1.0, gae_lambda=1.0)
    texts = written()
    paid = with_rewards(texts, torch.arange(96.0).view(12, 8))
    assert torch.equal(paid.rewards[texts.is_token], torch.arange(96.0).double().view(12, 8)[texts.is_token])
    assert not paid.rewards[~texts.is_token].any()
    history(agent, 1)
    experience = agent.learner.actor_critic.experience
    expected = torch.where(experience.texts.is_token, agent.learner.logits(experience.texts), 0.0)
    # λ = 1: with values of 0, a return is the sum of the rewards from a token on.
    to_go = expected.flip(1).cumsum(1).flip(1)
    real = experience.texts.is_token
    torch.testing.assert_close(experience.returns[real], to_go[real], rtol=0, atol=1e-4)


def test_it_tells_tokens_apart():
    agent = agent_of(discriminator_epochs=20, discriminator_learning_rate=1e-2)
    rows = history(agent, 2)
    assert rows[1]["discriminator/accuracy"] > max(0.7, rows[0]["discriminator/accuracy"] + 0.1)
    with torch.no_grad():
        references = collect(toy_envs(12), Plan(rollout=Guide.references()), episodes=12, generator=generator())
        own, theirs = (agent.learner.logits(texts.texts)[texts.is_token] for texts in (written(), references))
    assert float(theirs.mean()) > float(own.mean()) + 1


@pytest.mark.parametrize("discriminator", ["tiny", "adapter"])
def test_a_resumed_agent_continues_exactly(discriminator, tmp_path):
    policy = policy_of(vocab_size=16)
    agent = agent_of(policy.with_lora(2) if discriminator == "adapter" else policy, discriminator=discriminator)
    history(agent, 1)
    agent.save(tmp_path / "agent")
    again, control = (GAIL.load(tmp_path / "agent", envs=toy_envs(12)) for _ in range(2))
    control.learner.optimizer.state.clear()
    expected = history(agent, 2)
    assert history(again, 2) == expected
    assert history(control, 2) != expected


def test_what_reads_no_tokens_is_refused():
    with pytest.raises(ValueError, match="discriminator_level token needs the discriminator tiny or adapter"):
        agent_of(discriminator="some/classifier")
    with pytest.raises(ValueError, match=r"gradient_penalty is 1.0, but .* not for TokenAdapter"):
        agent_of(policy_of(vocab_size=16).with_lora(2), discriminator="adapter", gradient_penalty=1.0)
    assert isinstance(agent_of(discriminator_level="text").learner.discriminator, ClassifierDiscriminator)
