"""Who wrote which token: the texts show the plan. The guide always writes g, the policy always writes p."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from doubles import G, OneToken, P, foreign_envs, generator, rollins, shown, write
from torch import Tensor

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import (
    Plan,
)
from tril_gym.agents.collection.collector import EpisodeRandomness, collect
from tril_gym.agents.collection.cuts import switch_points


def test_plan_without_rollin(autoreset_mode):
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


def test_guide_begins(autoreset_mode):
    # The guide writes ggggg. and the policy, wherever it continues a text, makes it seven tokens long.
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
    # The policy continued each text where the guide's was cut; the guide wrote only where a rollin was drawn.
    assert [length for batch in policy.begun for length in batch] == switches
    assert sum(len(batch) for batch in guide.begun) == len(rollins(trajectories))


@dataclass
class Guaranteeing:
    """An actor whose writer guarantees a minimum length. Counts the tokens that it writes."""

    actor: OneToken
    min_new_tokens: int
    written: int = 0

    def start(self, *text: Any) -> Any:
        writer = self.actor.start(*text)
        writer.min_new_tokens = self.min_new_tokens
        write_on = writer.next

        def next_and_count(draws: Tensor) -> tuple[Tensor, Tensor | None]:
            self.written += len(draws)
            return write_on(draws)

        writer.next = next_and_count
        return writer


def test_rollin_of_known_length_is_written_to_its_switch_only(autoreset_mode):
    guaranteeing, silent = (
        Guaranteeing(OneToken(G), shortest) for shortest in (8, 0)
    )  # T = 8, and they never end early
    known, unknown = (
        write(Plan(rollout=OneToken(P, lengths=(7,)), rollin=guide, rollin_prob=0.6), mode=autoreset_mode)
        for guide in (guaranteeing, silent)
    )
    assert shown(known) == shown(unknown)
    assert torch.equal(known.switch, unknown.switch)
    switches = rollins(known)
    assert guaranteeing.written == sum(switches) < 8 * len(switches) == silent.written


@pytest.mark.parametrize("learn_on", ["rollin", "switch"])
def test_guide_finishes(learn_on):
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


def test_guide_without_logprobs():
    plan = Plan(rollout=OneToken(P, logprob=-0.5), rollin=OneToken(G), rollin_prob=1.0)
    trajectories = write(plan)
    assert torch.equal(trajectories.old_logprobs, torch.where(trajectories.wrote, -0.5, 0.0).double())


def test_rollin_too_short_to_cut_is_dropped():
    plan = Plan(rollout=OneToken(P, lengths=(4,)), rollin=OneToken(G, lengths=(1,)), rollin_prob=1.0)
    trajectories = write(plan)
    assert set(shown(trajectories)) == {"ppp."}
    assert trajectories.switch.eq(0).all()


@pytest.mark.parametrize("rollin_prob", [0.0, 0.3, 0.8, 1.0])
def test_share_of_rollins_is_rollin_prob(rollin_prob):
    plan = Plan(rollout=OneToken(P), rollin=OneToken(G), rollin_prob=rollin_prob)
    trajectories = collect(foreign_envs(64, max_new_tokens=3), plan, episodes=1024, generator=generator(4))
    share = len(rollins(trajectories)) / 1024
    # Four standard deviations; none at 0 and 1.
    assert abs(share - rollin_prob) <= 4 * np.sqrt(rollin_prob * (1 - rollin_prob) / 1024)


def chi_squared(switches: np.ndarray, cells: int) -> float:
    """Return the statistic of 1 … cells against the uniform distribution."""
    counts = np.bincount(switches, minlength=cells + 1)
    assert counts[0] == 0
    assert len(counts) == cells + 1
    expected = len(switches) / cells
    return float(((counts[1:] - expected) ** 2 / expected).sum())


def test_switch_is_uniform():
    # 9 tokens: 8 positions to cut, 7 degrees of freedom; chance exceeds 24.3 once in a thousand times.
    draws = EpisodeRandomness.draw(20_000, 1, generator(2)).switch.numpy()
    lengths = np.full(20_000, 9)
    assert chi_squared(switch_points(lengths, draws), cells=8) < 24.3
    assert chi_squared(switch_points(lengths, draws**1.1), cells=8) > 24.3  # control: draws skewed towards 0


def test_switch_of_full_rollins_is_uniform():
    # 8 places and the end: 8 degrees of freedom; chance exceeds 26.1 once in a thousand times.
    draws, lengths = EpisodeRandomness.draw(20_000, 1, generator(2)).switch.numpy(), np.full(20_000, 9)
    assert chi_squared(switch_points(lengths, draws, allow_full=True), cells=9) < 26.1
    assert chi_squared(switch_points(lengths, draws**1.1, allow_full=True), cells=9) > 26.1  # control
    assert switch_points(np.array([0, 1, 2]), np.full(3, 0.999), allow_full=True).tolist() == [0, 1, 2]


def test_range_of_switches():
    first, last = np.zeros(4), np.full(4, np.nextafter(1.0, 0.0))
    lengths = np.array([1, 2, 3, 50])
    assert switch_points(lengths, first).tolist() == [0, 1, 1, 1]
    assert switch_points(lengths, last).tolist() == [0, 1, 2, 49]
    assert switch_points(np.zeros(1, int), last[:1]).tolist() == [0]


def test_rollins_and_switches_are_drawn_independently():
    draws = EpisodeRandomness.draw(4000, 3, generator(2))
    columns = torch.cat([draws.rollin_uniform[:, None], draws.switch[:, None], draws.rollin, draws.rollout], dim=1)
    off_diagonal = columns.T.corrcoef() - torch.eye(8)
    assert float(off_diagonal.abs().max()) < 0.07  # four standard deviations of 1/√4000
    assert len(set(draws.seeds.tolist())) == 4000


def test_invalid_plans_are_refused():
    with pytest.raises(ValueError, match=r"rollin_prob must be a probability in \[0, 1\], got 1.5"):
        Plan(rollout=OneToken(P), rollin=OneToken(G), rollin_prob=1.5)
    with pytest.raises(ValueError, match=r"rollin_prob is 0\.5 but the plan has no rollin actor"):
        Plan(rollout=OneToken(P), rollin_prob=0.5)
