"""The family learns the toy environment in seconds; the same numbers without a signal do not.

The control of an algorithm: its rewards are noise, its pairs are in random order, or its guide knows nothing.
"""

from dataclasses import fields

import numpy as np
import pytest
from test_toy_agents import toy_envs, value

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


CONTROLS = ("rloo", "vineppo", "apa", "online-dpo", "raft", "a-star-po", "dpo", "gkd")  # one of each kind of signal


def guide_of(name, *, is_control):
    """Return the references, or a model that writes good words; as a control one that has learned nothing."""
    if name == "dr-po":
        return Guide.references()
    envs = toy_envs(max_new_tokens=4)
    teacher = tiny_policy(envs, samples=0, width=32, heads=2, seed=int(is_control))
    if not is_control:
        BC(teacher, envs, BCConfig(learning_rate=1e-2)).learn(12, progress=False)
    return Guide(teacher)


def pairs_of(envs, *, is_control):
    """Return good words and one bad word, in this order; as a control in random order."""
    pairs = [(example.references[0], "w3 w3 w3 w3 w3 w3") for example in envs.unwrapped.examples]
    is_turned = np.random.default_rng(0).random(len(pairs)) < 0.5
    return Pairs([pair[::-1] if is_control and turn else pair for pair, turn in zip(pairs, is_turned, strict=True)])


def noise(name):
    """Return a reward that does not depend on the text; one that never pays for A-LoL, which imitates what does."""
    rng = np.random.default_rng(0)
    return lambda completions: (rng.random(len(completions)) * (name != "a-lol")).tolist()


def trained(name, iterations, *, is_control=False, guide=None):
    """Return the policy's mean reward before and after, with a guide in place of the usual one if one is given."""
    envs = toy_envs(max_new_tokens=4)
    policy, kind = tiny_policy(envs, samples=0, width=32, heads=2), agent_type(name)
    before = value(policy, envs)
    known = {entry.name for entry in fields(kind.config_type)}
    numbers = {key: number for key, number in (NUMBERS | OWN.get(name, {})).items() if key in known}
    parts = {"guide": guide or guide_of(name, is_control=is_control)} if kind.takes_guide else {}
    if kind.needs_pairs:
        parts["pairs"] = pairs_of(envs, is_control=is_control)
    school = toy_envs(max_new_tokens=4, reward=noise(name)) if is_control else envs
    agent = kind(policy=policy, envs=school, config=kind.config_type(**numbers), **parts)
    agent.learn(iterations, progress=False)
    return before, value(policy, envs)


@pytest.mark.parametrize("name", FAMILY)
def test_reward_increases(name):
    before, after = trained(name, 6)
    assert before < 0.4
    assert after > before + 0.15


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in CONTROLS else pytest.mark.slow) for name in FAMILY]
)
def test_without_a_signal_nothing_is_learned(name):
    before, after = trained(name, 6, is_control=True)
    assert after < before + 0.1


def test_dagger_learns_from_references():
    before, after = trained("dagger", 6, guide=Guide.references())
    assert after > before + 0.15
