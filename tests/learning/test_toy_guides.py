"""Algorithms with a guide, and GAIL, learn the toy environment; each test has a control."""

import numpy as np
import pytest
import torch
from doubles import learned
from gymnasium.vector import VectorEnv
from toy_guides import (
    COMMON,
    COUNT_CONFIG,
    mean_reward,
    new_policy,
    noisy_guide,
    sparse_agent,
    texts_to_reach,
    toy,
)

from tril_gym.agents import (
    D2LOLS,
    GAIL,
    LOLS,
    PPO,
    AggreVaTeD,
    AggreVaTeDConfig,
    D2LOLSConfig,
    GAILConfig,
    LMPolicy,
    LOLSConfig,
    Plan,
    PPOConfig,
    TextLayout,
)
from tril_gym.agents.actors.references import ReferenceTokens, reference_texts
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.collection.trajectories import minibatches
from tril_gym.agents.learners.discriminator import ClassifierDiscriminator
from tril_gym.agents.learners.optimizer import OptimizerConfig, adamw
from tril_gym.envs.toy import ToyRules, guide_value
from tril_gym.functional.losses import discriminator_loss
from tril_gym.models.texts import Texts

NUMBERS = COMMON | COUNT_CONFIG
torch.set_num_threads(1)  # adversarial training is sensitive to rounding, which depends on threads
GUIDED = {
    "aggrevated": (AggreVaTeD, AggreVaTeDConfig, {}),
    "lols": (LOLS, LOLSConfig, {"ppo_pp_prob": 0.5}),
    "d2lols": (D2LOLS, D2LOLSConfig, {"aggrevated_iterations": 6}),
}


@pytest.mark.parametrize("name", GUIDED)
def test_reward_increases_with_a_good_guide(name):
    envs, (agent, config, numbers) = toy(), GUIDED[name]
    policy = new_policy(envs, 0)
    before = mean_reward(policy, envs)
    agent(policy, noisy_guide(ToyRules(), 0.9), envs, config(**NUMBERS, **numbers)).learn(15)
    assert before < 0.4
    assert mean_reward(policy, envs) > before + 0.4


def test_aggrevated_learns_nothing_from_a_useless_guide():
    # The control: with a reward for EOS only, a uniform guide is useless, and the policy does not learn EOS.
    envs = toy(rule="stop")
    policy = new_policy(envs, 0)
    before = mean_reward(policy, envs)
    guide = noisy_guide(ToyRules("stop"), 0.0)
    AggreVaTeD(policy, guide, envs, AggreVaTeDConfig(**NUMBERS)).learn(15)
    assert mean_reward(policy, envs) < before + 0.2


@pytest.mark.parametrize("name", ["ppo-pp", "aggrevated"])
def test_good_guide_finds_sparse_rewards(name):
    assert texts_to_reach(sparse_agent(name, 0, 16), 0.5, 6000) is not None


def test_sparse_rewards_are_not_found_without_guide():
    assert texts_to_reach(sparse_agent("ppo", 0, 16), 0.5, 3000) is None


def test_useless_guide_does_not_prevent_learning():
    envs, guide = toy(), noisy_guide(ToyRules(), 0.0)
    ppo = learned(PPO(new_policy(envs, 0), envs, PPOConfig(**NUMBERS)), 12)
    config = D2LOLSConfig(**NUMBERS, aggrevated_iterations=3, rollin_prob=0.5)
    d2lols = learned(D2LOLS(new_policy(envs, 0), guide, envs, config), 24)
    assert mean_reward(d2lols.policy, envs) >= 0.95 * mean_reward(ppo.policy, envs)
    lols = LOLS(new_policy(envs, 0), guide, envs, LOLSConfig(**NUMBERS, ppo_pp_prob=0.5))
    before = mean_reward(lols.policy, envs)
    assert mean_reward(learned(lols, 12).policy, envs) >= before


def test_guides_critic_predicts_the_guides_reward():
    envs, rules = toy(vocab_size=8, max_new_tokens=5, num_examples=2), ToyRules("count", False, 8, 5)
    observations = np.stack([envs.reset(seed=seed)[0][0] for seed in range(8)])
    prompts = observations[:, :4]
    config = AggreVaTeDConfig(  # the policy does not change
        **COMMON | {"learning_rate": 1e-9, "critic_learning_rate": 3e-3, "minibatch_size": 64, "rollin_prob": 0.5},
        lr_schedule="linear",
        lr_iterations=40,
        gae_lambda=1.0,
    )
    found = {}
    for q in (0.2, 0.9):
        agent = learned(AggreVaTeD(new_policy(envs, 0), noisy_guide(rules, q), envs, config), 40)
        critic, _ = agent.learner.critic("guide")
        with torch.no_grad():
            texts = Texts.from_observations(torch.from_numpy(observations), 4)
            found[q] = critic(texts)[:, 0].double().numpy().mean()
        assert found[q] == pytest.approx(guide_value(rules, prompts, q).mean(), abs=0.1)
    assert found[0.9] > found[0.2] + 0.3  # the control: another guide has another value


def fresh_accuracy(policy: LMPolicy, envs: VectorEnv) -> float:
    """Return the accuracy of a discriminator trained from scratch on this policy's texts and references."""
    generator, layout = torch.Generator().manual_seed(7), TextLayout.of(envs)

    def both() -> tuple[Texts, Texts]:
        written = collect(envs, Plan(rollout=policy), episodes=512, generator=generator)
        return reference_texts(written, ReferenceTokens(layout), generator), written.texts

    discriminator, (experts, written) = ClassifierDiscriminator.tiny(layout, seed=7), both()
    optimizer = adamw(discriminator.parameters(), OptimizerConfig(), learning_rate=1e-3)
    for rows in minibatches(512, epochs=8, size=32, generator=generator):
        optimizer.zero_grad()
        discriminator_loss(discriminator.logits(experts[rows]), discriminator.logits(written[rows])).backward()
        optimizer.step()
    experts, written = both()  # of new texts
    with torch.no_grad():
        right = torch.cat([discriminator.logits(experts) > 0, discriminator.logits(written) <= 0])
    return float(right.double().mean())


class TestGAIL:
    @pytest.mark.slow
    def test_texts_become_indistinguishable_to_a_new_discriminator(self):
        # Some seeds learn only one of the two prompts, with an accuracy of 0.75: two of three seeds must not. The third
        # is needed only where the first two differ.
        envs = toy(vocab_size=8, max_new_tokens=5, num_examples=2)
        numbers = NUMBERS | {"learning_rate": 2e-3, "ent_coef": 0.1, "minibatch_size": 32}
        found = []
        for seed in range(3):
            policy = new_policy(envs, seed)
            assert fresh_accuracy(policy, envs) > 0.95  # the control: before training they are distinguishable
            config = GAILConfig(**numbers, lr_schedule="linear", lr_iterations=60)
            GAIL(policy, envs, config, seed=seed).learn(40)
            found.append(fresh_accuracy(policy, envs) < 0.6)
            if found.count(True) == 2:
                return
        pytest.fail("fewer than two of three seeds")

    def test_reward_increases_without_being_optimised(self):
        envs = toy(vocab_size=8, max_new_tokens=5, num_examples=8)
        found = []
        for seed in range(3):
            policy = new_policy(envs, seed)
            assert mean_reward(policy, envs) < 0.5
            config = GAILConfig(**NUMBERS | {"learning_rate": 5e-3, "minibatch_size": 32})
            GAIL(policy, envs, config, seed=seed).learn(20)
            found.append(mean_reward(policy, envs) > 0.9)
            if found.count(True) == 2:
                return
        pytest.fail("fewer than two of three seeds")

    @pytest.mark.parametrize("is_control", [False, True])
    def test_a_discriminator_of_tokens_teaches_unless_it_reads_other_texts(self, is_control):
        envs = toy(vocab_size=8, max_new_tokens=5, num_examples=8)
        policy = new_policy(envs, 0)
        before = mean_reward(policy, envs)
        config = GAILConfig(**NUMBERS | {"learning_rate": 5e-3, "minibatch_size": 32}, discriminator_level="token")
        agent = GAIL(policy, envs, config)
        if is_control:
            agent.learner.set_discriminator(OtherTexts(agent.learner.discriminator))
        agent.learn(12)
        assert before < 0.5
        assert (mean_reward(policy, envs) > before + 0.3) != is_control

    def test_discriminator_of_other_texts_teaches_nothing(self):
        envs = toy(vocab_size=8, max_new_tokens=5, num_examples=8)
        policy = new_policy(envs, 0)
        before = mean_reward(policy, envs)
        discriminator = OtherTexts(ClassifierDiscriminator.tiny(TextLayout.of(envs)))
        config = GAILConfig(**NUMBERS | {"learning_rate": 5e-3, "minibatch_size": 32})
        GAIL(policy, envs, config, discriminator=discriminator).learn(20)
        assert mean_reward(policy, envs) < before + 0.3


class OtherTexts:
    """A discriminator that gets other texts than those to classify."""

    def __init__(self, discriminator: ClassifierDiscriminator) -> None:
        self.discriminator = discriminator

    def logits(self, texts: Texts) -> torch.Tensor:
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(len(texts)))
        return self.discriminator.logits(texts[order])

    def parameters(self):
        return self.discriminator.parameters()

    def state_dict(self):
        return self.discriminator.state_dict()

    def load_state_dict(self, state):
        self.discriminator.load_state_dict(state)
