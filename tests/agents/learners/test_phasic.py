"""PPG in its limits: without auxiliary epochs it is PPO; the KL keeps the policy where the phase began."""

import pytest
import torch
from doubles import history, toy_envs, toy_policy

from tril_gym.agents import PPG, PPO, PPGConfig, PPOConfig
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
