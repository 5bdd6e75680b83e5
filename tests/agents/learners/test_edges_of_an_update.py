"""Edges of an update: nothing to learn from, ragged texts for an adapter discriminator, clipped gradients."""

from dataclasses import replace

import gymnasium as gym
import pytest
import torch
from doubles import MANY_EOS, alone, foreign_envs, generator, policy_of, ragged_texts

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import GAIL, PPO, GAILConfig, PPOConfig
from tril_gym.agents.learners.discriminator import AdapterDiscriminator
from tril_gym.utils.profiler import Timer


def weights(critic) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in critic.parameters()]


@pytest.mark.parametrize("critic_kind", ["separate", "shared"])
def test_critic_without_tokens_takes_no_step(critic_kind):
    envs = foreign_envs(8, eos_token_ids=MANY_EOS)
    agent = PPO(policy_of(), envs, PPOConfig(learning_rate=1e-2, critic=critic_kind, epochs=1))
    reports = []
    agent.learn(1, callbacks=[reports.append])  # momentum that a step without gradient would follow
    critic, optimizer = agent.learner.critic("policy")
    before, steps = weights(critic), [int(state["step"]) for state in optimizer.state.values()]
    assert min(steps) > 0
    texts = reports[0].trajectories
    # The policy wrote all tokens as a rollin: it learns from them, the critic of rollouts from none.
    all_rollin = replace(texts, is_rollin=texts.is_token, learn_on="rollin", values=None)
    agent.learner.update(all_rollin, agent.plan(1), generator=generator(1), timer=Timer())
    assert all(torch.equal(a, b) for a, b in zip(before, weights(critic), strict=True))
    assert [int(state["step"]) for state in optimizer.state.values()] == steps
    # The control: with a rollout it moves.
    agent.learner.update(replace(texts, values=None), agent.plan(2), generator=generator(1), timer=Timer())
    assert not all(torch.equal(a, b) for a, b in zip(before, weights(critic), strict=True))


@pytest.mark.parametrize("family", ["gpt2", "t5", "bart"])
def test_adapter_discriminator_reads_ragged_texts_as_alone(family):
    policy = policy_of(family).with_lora(2)
    discriminator = AdapterDiscriminator(policy)
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.normal_(0.0, 0.3, generator=generator(3))
    texts = ragged_texts(7)
    together = discriminator.logits(texts)
    for row in range(7):
        torch.testing.assert_close(
            discriminator.logits(alone(texts, row)), together[row : row + 1], rtol=1e-4, atol=1e-4
        )
    assert together.std() > 1e-2  # else any mix-up would pass


def test_gradients_of_the_discriminator_are_clipped():
    def gradient_norm(limit: float) -> tuple[float, float]:
        envs = gym.make_vec("tril/Toy-v0", num_envs=8, rule="stop", vocab_size=24, max_new_tokens=8)
        agent = GAIL(policy_of(), envs, GAILConfig(max_grad_norm=limit, minibatch_size=8))
        reports = []
        agent.learn(1, callbacks=[reports.append])
        (group,) = agent.learner.optimizer.param_groups  # of the discriminator alone
        norm = torch.nn.utils.get_total_norm([p.grad for p in group["params"] if p.grad is not None])
        return float(norm), reports[0].metrics["grad_norm/discriminator"]

    free, reported = gradient_norm(1e6)
    assert free == pytest.approx(reported, rel=1e-5)
    clipped, before = gradient_norm(free / 10)
    assert clipped == pytest.approx(free / 10, rel=1e-3)
    assert before == pytest.approx(free, rel=1e-5)  # what is reported is the norm before
