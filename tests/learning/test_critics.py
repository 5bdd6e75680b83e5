"""Every critic approaches the value of its own actor, which rollouts from restarted states estimate."""

from dataclasses import fields

import pytest
import torch
from doubles import generator
from test_toy_agents import toy_envs
from toy_guides import noisy_guide

from tril_gym.agents import Guide, Plan, tiny_policy
from tril_gym.agents.collection.baselines import values_by_rollouts
from tril_gym.agents.collection.collector import collect
from tril_gym.envs.toy import ToyRules
from tril_gym.experiment.algorithms import ALGORITHMS, agent_type

T = 4
# The policy hardly moves, so that its value stays; with λ = 1 the critic's targets are rewards.
NUMBERS = {"learning_rate": 1e-9, "critic_learning_rate": 1e-2, "gae_lambda": 1.0, "kl_coef": 0.0, "minibatch_size": 16}
OWN = {
    "aggrevated": {"rollin_prob": 0.5},
    "lols": {"ppo_pp_prob": 0.5, "rollin_prob": 0.5},
    "d2lols": {"aggrevated_iterations": 7, "rollin_prob": 0.5},
}
CRITICS = [  # algorithm, owner of the critic, kind of network
    ("ppo", "policy", "separate"),
    ("ppo", "policy", "shared"),
    ("ppo-pp", "policy", "separate"),
    ("dr-po", "policy", "separate"),
    ("apa", "policy", "separate"),
    ("ppg", "policy", "separate"),
    ("aggrevated", "guide", "separate"),
    ("lols", "policy", "separate"),
    ("lols", "guide", "separate"),
    ("d2lols", "guide", "separate"),
    ("d2lols", "policy", "separate"),
]


def test_every_algorithm_with_critics_of_its_environment_is_here():
    with_critic = {name for name in ALGORITHMS if agent_type(name).config_type.has_critic}
    assert with_critic - {name for name, *_ in CRITICS} == {"gail"}  # whose critic learns the discriminator's rewards


def trained(name, critic, iterations):
    """Return an agent whose policy is as it was, and whose critics have learned. Good words pay at once."""
    envs, kind = toy_envs(max_new_tokens=T, dense=True), agent_type(name)
    policy = tiny_policy(envs, samples=0, width=32, heads=2)
    known = {entry.name for entry in fields(kind.config_type)}
    numbers = {key: value for key, value in (NUMBERS | {"critic": critic} | OWN.get(name, {})).items() if key in known}
    guide = Guide.references() if name == "dr-po" else noisy_guide(ToyRules("count", True, 16, T), 0.9)
    parts = {"guide": guide} if kind.takes_guide else {}
    numbers |= {"lr_schedule": "linear", "lr_iterations": iterations}  # else the last texts' noise stays in the critic
    agent = kind(policy=policy, envs=envs, config=kind.config_type(epochs=2, **numbers), **parts)
    agent.learn(iterations, progress=False)
    return agent


def errors(agent, owner, *, texts):
    """Return mean absolute errors: a critic's to the values of both actors, and that of its own one's mean value."""
    policy, envs = agent.policy, agent.envs
    guide = noisy_guide(ToyRules("count", True, 16, T), 0.9)
    written = collect(envs, Plan(rollout=policy), episodes=16, generator=generator(5))
    actors = {"policy": policy, "guide": guide}
    learner = getattr(agent.learner, "actor_critic", agent.learner)
    with torch.no_grad():
        found = learner.critic(owner)[0](written.texts)[:, :-1].double()
    found, known = found.cpu(), written.is_token
    error = {}
    for name, actor in actors.items():
        values = values_by_rollouts(envs, written, actor, texts=texts, every=1, generator=generator(6))[:, :-1]
        error[name] = float((found - values).abs()[known].mean())
        if name == owner:
            error["constant"] = float((values[known].mean() - values[known]).abs().mean())
    return error


def check(error, owner, limit):
    other = {"policy": "guide", "guide": "policy"}[owner]
    assert error[owner] < limit
    assert error[other] > 2 * error[owner]  # the control: it is not the other one's value


def test_both_critics_of_d2lols_approach_the_values_of_their_actors():
    agent = trained("d2lols", "separate", 12)
    check(errors(agent, "policy", texts=12), "policy", 0.15)
    check(errors(agent, "guide", texts=12), "guide", 0.25)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "owner", "critic"), CRITICS)
def test_critics_come_close_to_the_values_of_their_actors(name, owner, critic):
    error = errors(trained(name, critic, 40), owner, texts=128)
    check(error, owner, 0.8 * error["constant"])  # the mean of all states is no such value
