"""The value head on PPG's policy approaches the value of the policy, which rollouts from restarted states estimate."""

import pytest
import torch
from doubles import generator
from test_toy_agents import toy_envs

from tril_gym.agents import PPG, Plan, PPGConfig, tiny_policy
from tril_gym.agents.collection.baselines import values_by_rollouts
from tril_gym.agents.collection.collector import collect

# While its critic warms up, the policy takes no step in a policy phase; in the others the KL keeps it. λ = 1: the
# targets are rewards.
NUMBERS = {"critic_warmup": 1000, "gae_lambda": 1.0, "kl_coef": 0.0, "learning_rate": 3e-3, "max_grad_norm": 1e9}
PHASES = {"auxiliary_every": 1, "auxiliary_epochs": 4, "clone_coef": 10.0, "minibatch_size": 16}


@pytest.mark.slow
def test_the_value_head_learns_the_values():
    envs = toy_envs(max_new_tokens=4, dense=True)
    agent = PPG(tiny_policy(envs, samples=0, width=32, heads=2), envs, PPGConfig(**NUMBERS, **PHASES))
    agent.learn(40, progress=False)
    written = collect(envs, Plan(rollout=agent.policy), episodes=16, generator=generator(5))
    known = written.is_token
    with torch.no_grad():
        found = agent.learner.head(written.texts)[:, :-1].double()[known]
    values = values_by_rollouts(envs, written, agent.policy, texts=128, every=1, generator=generator(6))[:, :-1][known]
    constant = (values.mean() - values).abs().mean()
    assert (found - values).abs().mean() < 0.75 * constant  # the control: the mean of all states is no such value
