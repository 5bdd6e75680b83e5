"""The family learns the toy environment in seconds; the same numbers on shuffled rewards do not."""

from dataclasses import fields

import pytest
from test_toy_agents import Shuffled, toy_envs, value

from tril_gym.agents import BC, BCConfig, Guide, Pairs, tiny_policy
from tril_gym.experiment.algorithms import ALGORITHMS, agent_type

NUMBERS = {"learning_rate": 1e-2, "minibatch_size": 64, "kl_coef": 0.0, "normalize_advantages": True, "epochs": 1}
OWN = {
    "rebel": {"epochs": 4, "eta": 8.0},
    "a-star-po": {"epochs": 2},
    "rso": {"rejection_beta": 0.05, "beta": 0.3, "texts_per_prompt": 8},
    "vineppo": {"rollout_texts": 2},
    "dr-po": {"epochs": 2},
    "dpo": {"beta": 0.5},
    "ipo": {"beta": 0.05},
}
FAMILY = [*ALGORITHMS][7:]


def guide_of(name):
    """Return the references, or a model that writes good words."""
    if name == "dr-po":
        return Guide.references()
    envs = toy_envs(max_new_tokens=4)
    teacher = tiny_policy(envs, samples=0, width=32, heads=2)
    BC(teacher, envs, BCConfig(learning_rate=1e-2)).learn(12, progress=False)
    return Guide(teacher)


def trained(name, iterations, *, shuffled=False):
    """Return the policy's mean reward before and after."""
    envs = toy_envs(max_new_tokens=4)
    policy, kind = tiny_policy(envs, samples=0, width=32, heads=2), agent_type(name)
    before = value(policy, envs)
    known = {entry.name for entry in fields(kind.config_type)}
    numbers = {key: number for key, number in (NUMBERS | OWN.get(name, {})).items() if key in known}
    parts = {"guide": guide_of(name)} if kind.takes_guide else {}
    if name in ("dpo", "ipo"):
        texts = [example.references[0] for example in envs.unwrapped.examples]
        parts["pairs"] = Pairs([(text, "w3 w3 w3 w3 w3 w3") for text in texts])
    agent = kind(policy=policy, envs=envs, config=kind.config_type(**numbers), **parts)
    if shuffled:
        agent.learner = Shuffled(agent.learner)
    agent.learn(iterations, progress=False)
    return before, value(policy, envs)


@pytest.mark.parametrize("name", FAMILY)
def test_reward_increases(name):
    before, after = trained(name, 6)
    assert before < 0.4
    assert after > before + 0.15


@pytest.mark.parametrize("name", ["rloo", "online-dpo", "a-star-po"])
def test_shuffled_rewards_teach_nothing(name):
    before, after = trained(name, 6, shuffled=True)
    assert abs(after - before) < 0.1
