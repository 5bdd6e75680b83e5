"""PPG in its limits: without auxiliary epochs it is PPO; the KL keeps the policy where the phase began."""

from dataclasses import replace

import pytest
import torch
from doubles import history, toy_envs, toy_policy

from tril_gym.agents import PPG, PPO, PPGConfig, PPOConfig
from tril_gym.agents.learners import phasic
from tril_gym.functional.losses import value_loss
from tril_gym.models.texts import Texts

NUMBERS = {"learning_rate": 1e-3, "episodes_per_iteration": 16, "minibatch_size": 8, "epochs": 2, "kl_coef": 0.05}


def trained(agent_type, config_type, iterations=2, **numbers):
    config = config_type(**NUMBERS | numbers, critic="separate", check_model=False)
    agent = agent_type(toy_policy(dtype=torch.float64), toy_envs(), config)
    history(agent, iterations)
    return agent


def weights(agent):
    return torch.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()])


def logprobs(agent):
    envs = toy_envs(8)
    texts = Texts.from_observations(torch.from_numpy(envs.reset(seed=3)[0]), agent.layout.max_prompt_length)
    texts = texts.with_completions([[5, 7, 9, 1]] * 8)
    return agent.policy.token_logprobs(texts, agent.layout).logprobs.detach()


def test_without_auxiliary_epochs_it_is_ppo():
    plain = weights(trained(PPO, PPOConfig))
    assert torch.equal(weights(trained(PPG, PPGConfig, auxiliary_every=1, auxiliary_epochs=0)), plain)
    # The control: with them it is not.
    assert not torch.equal(weights(trained(PPG, PPGConfig, auxiliary_every=1, auxiliary_epochs=1)), plain)


def test_the_kl_keeps_the_policy_in_the_auxiliary_phase():
    before = logprobs(trained(PPG, PPGConfig, 1, auxiliary_every=1, auxiliary_epochs=0))
    moved = [
        float((logprobs(trained(PPG, PPGConfig, 1, auxiliary_every=1, clone_coef=coef)) - before).abs().mean())
        for coef in (0.0, 100.0)
    ]
    assert moved[1] < 0.5 * moved[0]


def test_a_shared_critic_is_refused():
    with pytest.raises(ValueError, match="critic must be separate or adapter, got shared"):
        PPGConfig(critic="shared")


def test_targets_of_the_auxiliary_phase_are_returns_of_collection(monkeypatch):
    numbers = NUMBERS | {"auxiliary_every": 2, "auxiliary_epochs": 1, "critic": "separate", "check_model": False}
    agent = PPG(toy_policy(dtype=torch.float64), toy_envs(), PPGConfig(**numbers))
    inner, collected, moved, targets = agent.learner.actor_critic, [], [], []
    update = inner.update

    def returns_with_the_critic_of_now(trajectories):
        scored = inner.credit.add_reference_and_values(replace(trajectories, values=None), inner.critic("policy")[0])
        experience = inner.credit.experience(scored, kl_coef=NUMBERS["kl_coef"])
        return experience.returns[experience.learn_critic]

    def recorded_update(trajectories, *arguments, **keywords):
        begun = returns_with_the_critic_of_now(trajectories)
        metrics = update(trajectories, *arguments, **keywords)
        collected.append(begun)
        moved.append(returns_with_the_critic_of_now(trajectories))
        return metrics

    def recorded_loss(values, old_values, returns, learn):
        targets.append(returns[learn])
        return value_loss(values, old_values, returns, learn)

    monkeypatch.setattr(inner, "update", recorded_update)
    monkeypatch.setattr(phasic, "value_loss", recorded_loss)
    history(agent, 2)
    # Two losses have them: that of the head on the policy's body, and the critic's.
    found, expected, other = (torch.cat(parts).sort().values for parts in (targets, 2 * collected, 2 * moved))
    torch.testing.assert_close(found, expected)
    assert (found - other).abs().max() > 1e-3  # the control: returns of the critic that has learned from them
