"""The best texts of the past as a guide: what is kept, what the policy begins with, and exact resuming."""

import math
from dataclasses import replace

import pytest
import torch
from doubles import OneToken, foreign_envs, generator, history, toy_envs, toy_policy

from tril_gym.agents import Guide, Plan, PPOPlusPlus, PPOPlusPlusConfig, TextLayout, collect
from tril_gym.experiment import configure
from tril_gym.experiment.build import build_run
from tril_gym.wrappers import WithoutInfo

CONFIG = {"rollin_prob": 0.8, "check_model": False, "learning_rate": 1e-3, "episodes_per_iteration": 24}


def agent_of(**settings):
    policy = toy_policy(dtype=torch.float64)
    return PPOPlusPlus(policy, Guide.successes(**settings), toy_envs(12, num_examples=8), PPOPlusPlusConfig(**CONFIG))


def test_the_best_text_of_each_example_is_kept_by_hand():
    guide = Guide.successes(0.4)
    texts = collect(toy_envs(4, num_examples=1), Plan(rollout=OneToken(5)), episodes=5, generator=generator())
    columns = torch.arange(8)
    # Rewards .2, .4, .4, .9, .6 of one example; the fourth was cut off. Row r has r + 1 tokens.
    rewards = torch.where(columns == 0, torch.tensor([[0.2], [0.4], [0.4], [0.9], [0.6]], dtype=torch.float64), 0.0)
    cut_off = torch.tensor([False, False, False, True, False])
    lengths = columns < torch.arange(1, 6).unsqueeze(1)
    texts = replace(texts, rewards=rewards, truncated=cut_off, terminated=~cut_off, is_token=lengths)
    expected = [{}, {0: ([5] * 2, 0.4)}, {0: ([5] * 2, 0.4)}, {0: ([5] * 2, 0.4)}, {0: ([5] * 5, 0.6)}]
    for row, table in enumerate(expected):
        guide.remember(texts[torch.tensor([row])])
        assert guide.table == table


def test_the_policy_begins_with_prefixes_of_its_own_texts():
    agent, tables, seen = agent_of(), [{}], []

    def note(report):
        tables.append(dict(agent.guide.table))
        seen.append(report.trajectories)

    agent.learn(3, progress=False, callbacks=[note])
    assert not seen[0].is_rollin.any()  # nothing is known yet
    for table, texts in zip(tables[1:], seen[1:], strict=False):
        rows = (texts.switch > 0).nonzero().squeeze(1).tolist()
        assert len(rows) > 5
        for row in rows:
            ids = table[int(texts.examples[row])][0]
            assert texts.tokens[row, : texts.switch[row]].tolist() == ids[: texts.switch[row]]
    rewards = [sum(reward for _, reward in table.values()) / 8 for table in tables[1:]]
    assert rewards[0] < rewards[-1]


def test_a_resumed_agent_has_its_table(tmp_path):
    agent = agent_of(minimum=0.2)
    history(agent, 2)
    agent.save(tmp_path / "agent")
    again = PPOPlusPlus.load(tmp_path / "agent", envs=toy_envs(12, num_examples=8))
    assert again.guide.table == agent.guide.table
    assert again.guide.minimum == 0.2
    again.guide.table, kept = {}, again.guide.table
    assert history(PPOPlusPlus.load(tmp_path / "agent", envs=toy_envs(12, num_examples=8)), 1) == history(agent, 1)
    assert history(again, 1)[0].get("rollin/share") is None  # control: without the table
    assert kept


def test_texts_are_begun_only_where_examples_are_known():
    with pytest.raises(ValueError, match="does not report its examples"):
        Guide.successes().check(TextLayout.of(foreign_envs(2)))
    agent = agent_of()
    texts = collect(agent.envs, Plan(rollout=OneToken(5)), episodes=2, generator=generator())
    with pytest.raises(ValueError, match="can only begin a text"):
        agent.guide.start(texts.texts, texts.infos, agent.layout)


@pytest.mark.parametrize("minimum", ["a", True, math.nan])
def test_the_least_reward_is_a_number(minimum):
    with pytest.raises(ValueError, match="minimum must be a finite number, a reward, or None for any, got"):
        Guide.successes(minimum)


def test_the_command_line_names_it():
    settings = {"env": "tril/Toy-v0", "tiny_samples": 0, "num_envs": 4, "guide_success_reward": 0.5}
    agent = build_run(configure("ppo-pp", guide="successes", **settings)).agent
    assert repr(agent.guide) == "Guide.successes(0.5)"
    with pytest.raises(ValueError, match="--guide-success-reward is for --guide successes, not for --guide references"):
        build_run(configure("ppo-pp", guide="references", **settings))


def test_texts_of_unknown_examples_are_refused():
    envs = WithoutInfo(toy_envs(4))
    agent = PPOPlusPlus(toy_policy(), Guide.successes(), envs, PPOPlusPlusConfig(check_model=False))
    with pytest.raises(ValueError, match="does not report them as info"):
        agent.learn(1)
