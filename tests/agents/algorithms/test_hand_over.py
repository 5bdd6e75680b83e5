"""D2LOLS hands over by measured quality: at the first measurement in which the policy is good enough."""

import pytest
from doubles import OneToken, generator, history, toy_envs, toy_policy

from tril_gym.agents import D2LOLS, D2LOLSConfig, Guide, Plan, collect
from tril_gym.agents.collection.baselines import compared_rewards

GOOD, BAD = 5, 7  # words of the toy environment with and without reward
NUMBERS = {"hand_over": "quality", "hand_over_every": 2, "hand_over_texts": 8, "check_model": False}


def agent_of(guide, **numbers):
    policy = toy_policy()
    return D2LOLS(policy, guide, toy_envs(4), D2LOLSConfig(**NUMBERS | {"aggrevated_iterations": 6} | numbers))


def aggrevated(rows):
    """Whether each iteration was one of AggreVaTeD: only there the guide's critic learns."""
    return [any(name.startswith("guide_critic/") for name in row) for row in rows]


def measured(rows):
    return [number for number, row in enumerate(rows) if "hand_over/policy" in row]


def test_actors_are_compared_on_the_same_prompts():
    envs = toy_envs(4, rule="stop")  # the right length depends on the prompt
    both = compared_rewards(envs, {"a": OneToken(BAD, (3,)), "b": OneToken(GOOD, (3,))}, texts=40, seed=1)
    assert both["a"] == both["b"]
    assert 0 < both["a"] < 1
    other = collect(envs, Plan(rollout=OneToken(BAD, (3,))), episodes=40, generator=generator(7)).rewards.sum(1).mean()
    assert float(other) != both["a"]  # control: other prompts


def test_a_policy_better_than_its_guide_is_on_its_own_at_once():
    rows = history(agent_of(OneToken(BAD)), 4)
    assert aggrevated(rows) == [False] * 4
    assert measured(rows) == [0]
    assert rows[0]["hand_over/policy"] > rows[0]["hand_over/guide"] == 0.0


def test_a_policy_as_good_as_its_guide_is_good_enough():
    assert aggrevated(history(agent_of(Guide(toy_policy())), 1)) == [False]  # it writes the same texts


def test_a_weaker_policy_is_measured_again_until_the_last_iteration():
    rows = history(agent_of(OneToken(GOOD)), 8)
    assert aggrevated(rows) == [True] * 6 + [False] * 2
    assert measured(rows) == [0, 2, 4]
    easy = history(agent_of(OneToken(GOOD), hand_over_margin=-1.0), 1)
    assert aggrevated(easy) == [False]  # control: as good as asked
    with pytest.warns(UserWarning, match="has no effect: hand_over is iteration"):
        rows = history(agent_of(OneToken(BAD), hand_over="iteration"), 2)
    assert aggrevated(rows) == [True] * 2  # control: by iteration
    assert not measured(rows)


def test_collection_ahead_cannot_wait_for_a_measurement():
    with pytest.raises(ValueError, match="hand_over must be iteration with overlap, got quality"):
        D2LOLSConfig(hand_over="quality", overlap=True)


def test_a_resumed_agent_has_handed_over(tmp_path):
    agent = agent_of(OneToken(BAD), hand_over_margin=0.05)
    history(agent, 1)
    agent.save(tmp_path / "agent")
    again = D2LOLS.load(tmp_path / "agent", envs=toy_envs(4), guide=OneToken(BAD))
    assert again.handed_over == 0
    assert history(again, 2) == history(agent, 2)


def test_a_failed_iteration_is_measured_again(monkeypatch):
    agent, same = agent_of(OneToken(BAD)), agent_of(OneToken(BAD))
    step = agent.envs.step
    agent.envs.step = lambda actions: (
        (_ for _ in ()).throw(KeyboardInterrupt) if agent.handed_over == 0 else step(actions)
    )
    try:
        history(agent, 1)
    except KeyboardInterrupt:
        agent.envs.step = step
    assert history(agent, 2) == history(same, 2)
