"""Who wrote which token: the text shows the plan. The guide always writes g, the policy always writes p."""

import numpy as np
import pytest
import torch
from doubles import G, OneToken, P, foreign_envs, generator, shown

from tril_gym.agents import Plan, Trajectories, collect
from tril_gym.agents.collect import Draws, switch_points

NO_EOS = (99,)


def write(plan: Plan, episodes: int = 40, mode: str = "NextStep", **settings) -> Trajectories:
    return collect(foreign_envs(8, mode=mode, **settings), plan, episodes=episodes, generator=generator(1))


def rollins(trajectories: Trajectories) -> list[int]:
    """Switches of the rows that have a rollin."""
    return [switch for switch in trajectories.switch.tolist() if switch]


def test_ppo(autoreset_mode):
    policy = OneToken(P, lengths=(3, 5, 1, 8, 99), logprob=-0.5)
    trajectories = write(Plan(rollout=policy), mode=autoreset_mode)
    assert shown(trajectories)[:5] == ["pp.", "pppp.", ".", "ppppppp.", "pppppppp"]
    assert trajectories.switch.eq(0).all()
    assert not trajectories.is_rollin.any()
    for mask in (trajectories.is_rollout, trajectories.wrote, trajectories.learn):
        assert torch.equal(mask, trajectories.is_token)
    assert trajectories.old_logprobs[trajectories.is_token].eq(-0.5).all()
    assert trajectories.old_logprobs[~trajectories.is_token].eq(0.0).all()
    assert trajectories.tokens[~trajectories.is_token].eq(0).all()
    assert policy.begun == [[0] * 8] * 5


def test_ppo_pp(autoreset_mode):
    # The guide writes ggggg. and the policy, wherever it takes up a text, makes it seven tokens long.
    guide, policy = OneToken(G, lengths=(6,), logprob=-9.0), OneToken(P, lengths=(7,), logprob=-0.5)
    trajectories = write(Plan(rollout=policy, rollin=guide, rollin_prob=0.6), mode=autoreset_mode)
    switches = trajectories.switch.tolist()
    assert shown(trajectories) == ["g" * h + "p" * (6 - h) + "." for h in switches]
    assert set(switches) == {0, 1, 2, 3, 4, 5}
    columns = torch.arange(8)
    assert torch.equal(trajectories.is_rollin, columns < trajectories.switch.unsqueeze(1))
    assert torch.equal(trajectories.is_rollout, trajectories.is_token & (columns >= trajectories.switch.unsqueeze(1)))
    assert torch.equal(trajectories.wrote, trajectories.is_rollout)
    assert torch.equal(trajectories.learn, trajectories.is_rollout)
    assert torch.equal(trajectories.old_logprobs, torch.where(trajectories.wrote, -0.5, 0.0).double())
    # The policy took up each text where the guide's was cut, and the guide wrote only where the coin said so.
    assert [length for wave in policy.begun for length in wave] == switches
    assert sum(len(wave) for wave in guide.begun) == len(rollins(trajectories))


@pytest.mark.parametrize("learn_on", ["rollin", "switch"])
def test_aggrevated(learn_on):
    guide, policy = OneToken(G, lengths=(7,), logprob=-9.0), OneToken(P, lengths=(6,), logprob=-0.5)
    trajectories = write(Plan(rollout=guide, rollin=policy, rollin_prob=0.6, learn_on=learn_on))
    switches = trajectories.switch.tolist()
    assert shown(trajectories) == ["p" * h + "g" * (6 - h) + "." for h in switches]
    assert torch.equal(trajectories.wrote, trajectories.is_rollin)
    assert torch.equal(trajectories.old_logprobs, torch.where(trajectories.is_rollin, -0.5, 0.0).double())
    if learn_on == "rollin":
        assert torch.equal(trajectories.learn, trajectories.is_rollin)
    else:  # the last token before the switch, none where there is no rollin
        expected = [[t == h - 1 for t in range(8)] for h in switches]
        assert trajectories.learn.tolist() == expected
        assert trajectories.learn.sum(1).tolist() == [int(h > 0) for h in switches]


def test_a_guide_who_says_no_logprobs():
    plan = Plan(rollout=OneToken(P, logprob=-0.5), rollin=OneToken(G), rollin_prob=1.0)
    trajectories = write(plan)
    assert torch.equal(trajectories.old_logprobs, torch.where(trajectories.wrote, -0.5, 0.0).double())


def test_a_rollin_too_short_to_be_cut_is_dropped():
    plan = Plan(rollout=OneToken(P, lengths=(4,)), rollin=OneToken(G, lengths=(1,)), rollin_prob=1.0)
    trajectories = write(plan)
    assert set(shown(trajectories)) == {"ppp."}
    assert trajectories.switch.eq(0).all()


@pytest.mark.parametrize("rollin_prob", [0.0, 0.3, 0.8, 1.0])
def test_the_share_of_rollins_is_rollin_prob(rollin_prob):
    plan = Plan(rollout=OneToken(P), rollin=OneToken(G), rollin_prob=rollin_prob)
    trajectories = collect(foreign_envs(64, max_new_tokens=3), plan, episodes=1024, generator=generator(4))
    share = len(rollins(trajectories)) / 1024
    # Four standard deviations; none at 0 and 1.
    assert abs(share - rollin_prob) <= 4 * np.sqrt(rollin_prob * (1 - rollin_prob) / 1024)


def chi_squared(switches: np.ndarray, cells: int) -> float:
    """Of 1 … cells against the uniform distribution."""
    counts = np.bincount(switches, minlength=cells + 1)
    assert counts[0] == 0
    assert len(counts) == cells + 1
    expected = len(switches) / cells
    return float(((counts[1:] - expected) ** 2 / expected).sum())


def test_the_switch_is_uniform():
    # 9 tokens: 8 places to cut, 7 degrees of freedom; chance exceeds 24.3 once in a thousand times.
    draws = Draws.of(20_000, 1, generator(2)).switch.numpy()
    lengths = np.full(20_000, 9)
    assert chi_squared(switch_points(lengths, draws), cells=8) < 24.3
    assert chi_squared(switch_points(lengths, draws**1.1), cells=8) > 24.3  # control: draws that lean to 0


def test_where_a_switch_may_be():
    first, last = np.zeros(4), np.full(4, np.nextafter(1.0, 0.0))
    lengths = np.array([1, 2, 3, 50])
    assert switch_points(lengths, first).tolist() == [0, 1, 1, 1]
    assert switch_points(lengths, last).tolist() == [0, 1, 2, 49]
    assert switch_points(np.zeros(1, int), last[:1]).tolist() == [0]


def test_coins_and_switches_are_drawn_apart():
    draws = Draws.of(4000, 3, generator(2))
    columns = torch.cat([draws.coin[:, None], draws.switch[:, None], draws.rollin, draws.rollout], dim=1)
    off_diagonal = columns.T.corrcoef() - torch.eye(8)
    assert float(off_diagonal.abs().max()) < 0.07  # four standard deviations of 1/√4000
    assert len(set(draws.seeds.tolist())) == 4000


def test_a_plan_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"rollin_prob must be a probability in \[0, 1\], got 1.5"):
        Plan(rollout=OneToken(P), rollin=OneToken(G), rollin_prob=1.5)
    with pytest.raises(ValueError, match=r"rollin_prob is 0\.5 but the plan has no rollin actor"):
        Plan(rollout=OneToken(P), rollin_prob=0.5)
