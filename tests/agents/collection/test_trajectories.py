"""Trajectories: rows are taken and joined with everything that belongs to them."""

from dataclasses import replace

import pytest
import torch
from doubles import OneToken, generator, toy_envs

from tril_gym.agents import Plan, Trajectories, collect


def texts_of(lengths: tuple[int, ...] = (2, 5, 99), *, episodes: int = 6, seed: int = 1, **plan) -> Trajectories:
    return collect(
        toy_envs(3), Plan(rollout=OneToken(5, lengths), **plan), episodes=episodes, generator=generator(seed)
    )


@pytest.mark.parametrize("rows", [[4, 0], [5, 5, 1], [-1], [False, True, True, False, False, True]], ids=str)
def test_rows_keep_their_infos(rows):
    texts = texts_of()
    picked = texts[torch.tensor(rows)]
    kept = torch.arange(6)[torch.tensor(rows)].tolist()
    assert picked.examples.tolist() == [texts.examples.tolist()[row] for row in kept]
    assert [info["example"] for info in picked.infos] == picked.examples.tolist()
    assert [info["completion"] for info in picked.infos] == [texts.infos[row]["completion"] for row in kept]
    assert len(set(texts.examples.tolist())) > 2


def test_joined_texts_keep_their_order_and_their_groups():
    one, other = texts_of(texts_per_prompt=2), texts_of(episodes=3, seed=2, texts_per_prompt=3)
    both = Trajectories.cat([one, other])
    assert both.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert both.examples.tolist() == one.examples.tolist() + other.examples.tolist()
    assert [info["example"] for info in both.infos] == both.examples.tolist()
    assert torch.equal(both.rewards, torch.cat([one.rewards, other.rewards]))


def test_what_only_some_parts_have():
    one, other = texts_of(), texts_of(seed=2)
    values, mass = torch.rand(6, 9), torch.rand(6, 8)
    known = replace(other, values=values, cut_mass=mass, given=torch.ones(6, dtype=torch.bool))
    both = Trajectories.cat([one, known])
    assert both.values is None  # those of the first are not known
    assert torch.equal(both.cut_mass, torch.cat([torch.zeros(6, 8), mass]))  # of which nothing was cut
    assert both.given.tolist() == [False] * 6 + [True] * 6
    assert both.own.examples.tolist() == one.examples.tolist()
    assert torch.equal(Trajectories.cat([known, known]).values, torch.cat([values, values]))


def test_how_texts_end():
    texts = texts_of()  # with EOS as second and fifth token, and without
    assert texts.lengths.tolist() == [2, 5, 8] * 2
    assert texts.ended_with([0, 1]).tolist() == [True, True, False] * 2
    assert texts.ended_with([5]).tolist() == [False, False, True] * 2
    stopped = [info | {"finish_reason": "stop"} if row == 2 else info for row, info in enumerate(texts.infos)]
    assert replace(texts, infos=stopped).ended_by_themselves([1]).tolist() == [True] * 5 + [False]


def test_scores_of_a_text_that_has_none_are_unknown():
    texts = texts_of()
    infos = [{"scores": {"fluency": 0.5, "length": 2}}, {}, {"scores": {"length": 0}}] * 2
    scores = replace(texts, infos=infos).scores
    assert list(scores) == ["fluency", "length"]
    assert scores["length"].isnan().tolist() == [False, True, False] * 2
    assert scores["fluency"].nan_to_num(-1.0).tolist() == [0.5, -1.0, -1.0] * 2
