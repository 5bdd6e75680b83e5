"""DR-PO: texts begin in the states of the references, in each as often."""

from collections import Counter

import gymnasium as gym
from doubles import EOS, OneToken, P, generator

from tril_gym.agents import DRPOConfig, Guide, collect

EPISODES = 1024


def statistic(**numbers):
    """Return chi-squared of the states at the switch against d_ref, and the number of states."""
    envs = gym.make_vec("tril/Toy-v0", num_envs=64, rule="prefix", num_examples=6, autoreset_mode="Disabled")
    expected = Counter()
    examples = envs.unwrapped.examples
    for example in examples:
        prompt, reference = ([int(word[1:]) for word in text.split()] for text in (example.prompt, *example.references))
        reference.append(EOS)
        for h in range(len(reference)):  # an example, then how much of its reference, both uniform
            expected[*prompt, "|", *reference[:h]] += EPISODES / len(examples) / len(reference)
    plan = DRPOConfig(**numbers).guide_starts(OneToken(P), Guide.references(), 0)
    found = collect(envs, plan, episodes=EPISODES, generator=generator(3))
    states = Counter(
        (*found.texts.prompt_ids(row), "|", *found.tokens[row, :h].tolist())
        for row, h in enumerate(found.switch.tolist())
    )
    assert states.keys() <= expected.keys()
    return sum((states[state] - mean) ** 2 / mean for state, mean in expected.items()), len(expected)


def test_states_at_the_switch_are_those_of_the_references():
    found, states = statistic()
    assert states == 20
    assert found < 43.8  # 99.9 % of chi-squared with 19 degrees of freedom
    assert statistic(cut="uniform")[0] > 43.8  # the control: the published code, which never begins at the prompt
