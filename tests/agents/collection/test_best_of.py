"""The best of several texts of a guide: which one is taken, and that the generator alone decides it."""

from dataclasses import replace

import pytest
import torch
from doubles import OneToken, generator, history, toy_envs, toy_plan, toy_policy

from tril_gym.agents import AggreVaTeD, AggreVaTeDConfig, BestOf, Guide, Plan, collect
from tril_gym.agents.collection.cuts import BackwardCut

EPISODES, N = 16, 3


def begins(**fields):
    return replace(toy_plan(0.7), **fields)


def finishes(**fields):
    plan = toy_plan()
    return Plan.guide_finishes(plan.rollout, plan.rollin, rollin_prob=0.7, **fields)


def texts_of(plan, *, num_envs=16, **settings):
    return collect(toy_envs(num_envs, **settings), plan, episodes=EPISODES, generator=generator(3))


def test_the_guide_finishes_each_text_at_least_as_well():
    plain, best = texts_of(finishes()), texts_of(finishes(best_of=BestOf(N)))
    worst = texts_of(finishes(best_of=BestOf(N, lambda texts, ends: -texts.rewards.sum(1))))
    assert torch.equal(best.examples, plain.examples)
    assert torch.equal(torch.where(best.is_rollin, best.tokens, 0), torch.where(plain.is_rollin, plain.tokens, 0))
    gained, lost = ((texts.rewards - plain.rewards).sum(1) for texts in (best, worst))
    assert bool((gained >= 0).all())
    assert float(gained.mean()) > 0.05
    assert float(lost.mean()) < 0  # control: the other choice
    assert best.group.tolist() == plain.group.tolist()


def test_the_policy_begins_at_the_best_of_the_candidates():
    seen = []

    def score(texts, ends):
        seen.append((texts, ends))
        return texts.rewards.sum(1)

    plain, best = texts_of(begins()), texts_of(begins(best_of=BestOf(N, score)))
    ((candidates, ends),) = seen
    rows = (plain.switch > 0).nonzero().squeeze(1)
    assert torch.equal(best.examples, plain.examples)
    rewards = candidates.rewards.sum(1).view(-1, N)
    assert float((rewards.amax(1) - rewards[:, 0]).mean()) > 0.05
    found = (best.switch > 0).nonzero().squeeze(1)
    chosen = rewards.argmax(1) + torch.arange(len(rewards)) * N
    begun = [candidates.tokens[row, : ends[row]].tolist() for row in chosen]
    has_rollin = [ids for ids in begun if ids]
    assert [best.tokens[row][best.is_rollin[row]].tolist() for row in found] == has_rollin
    firsts = [candidates.tokens[row, : ends[row]].tolist() for row in range(0, len(candidates), N)]
    assert [ids for ids in firsts if ids] == [plain.tokens[row][plain.is_rollin[row]].tolist() for row in rows]


@pytest.mark.parametrize("plan", [begins, finishes])
def test_the_choice_does_not_depend_on_the_batch(plan):
    one = texts_of(plan(best_of=BestOf(N), texts_per_prompt=2, share_rollin=True))
    other = texts_of(plan(best_of=BestOf(N), texts_per_prompt=2, share_rollin=True), num_envs=6)
    assert torch.equal(one.tokens, other.tokens)
    assert one.group.tolist() == [row // 2 for row in range(EPISODES)]
    rollins = torch.where(one.is_rollin, one.tokens, 0).view(-1, 2, one.tokens.shape[1])
    assert torch.equal(rollins[:, 0], rollins[:, 1])
    again = collect(toy_envs(16), plan(best_of=BestOf(N)), episodes=EPISODES, generator=generator(4))
    assert not torch.equal(again.tokens, one.tokens)  # control: another generator


def test_candidates_of_whole_texts_are_valued_before_their_last_token():
    seen = []
    texts_of(finishes(best_of=BestOf(N, lambda texts, ends: seen.append((texts, ends)) or texts.rewards.sum(1))))
    ((candidates, ends),) = seen
    assert torch.equal(ends, candidates.lengths - 1)


def test_best_beginnings_follow_the_schedule_of_the_cut():
    first, last = (texts_of(begins(best_of=BestOf(N), cut=BackwardCut(4), iteration=i)) for i in (0, 4))
    assert first.switch.any()
    assert not last.switch.any()


@pytest.mark.parametrize("share", [True, False])
def test_texts_of_a_group_have_one_beginning_only_if_they_share_it(share):
    plan = replace(begins(best_of=BestOf(N), texts_per_prompt=2, share_rollin=share), rollin_prob=1.0)
    texts = texts_of(plan)
    rollins = torch.where(texts.is_rollin, texts.tokens, 0).view(-1, 2, texts.tokens.shape[1])
    assert torch.equal(rollins[:, 0], rollins[:, 1]) == share


@pytest.mark.parametrize(
    ("scores", "rows"),
    [
        ([[0.5, 0.5 + 1e-7], [0.0, 1e-3]], [0, 3]),  # what rounding may do chooses nothing
        ([[-200.0, -200.0 + 1e-4], [-200.0, -199.0]], [0, 3]),
        ([[float("-inf"), 0.0], [float("inf"), float("inf")]], [1, 2]),
    ],
)
def test_scores_that_differ_by_rounding_are_equal(scores, rows):
    assert BestOf(2, lambda texts, ends: torch.tensor(scores).flatten()).rows(None, None).tolist() == rows


def test_the_guides_critic_may_choose():
    parts = toy_policy(dtype=torch.float64), Guide(toy_policy(seed=1, dtype=torch.float64)), toy_envs(8)
    config = AggreVaTeDConfig(best_of=N, best_of_by="value", check_model=False, critic_learning_rate=1e-2)
    agent = AggreVaTeD(*parts, config)
    history(agent, 1)
    plan = agent.plan(1)
    kept = []
    score = plan.best_of.score
    choose = BestOf(N, lambda texts, ends: kept.append((texts, ends, score(texts, ends))) or kept[-1][2])
    texts = collect(agent.envs, replace(plan, best_of=choose), episodes=8, generator=generator(5))
    ((candidates, ends, values),) = kept
    with torch.no_grad():
        expected = agent.learner.critic("guide")[0](candidates.texts)
    torch.testing.assert_close(values, expected[torch.arange(len(ends)), ends])
    best = values.view(-1, N).argmax(1) + torch.arange(8) * N
    assert torch.equal(texts.tokens, candidates.tokens[best])
    assert not torch.equal(best, candidates.rewards.sum(1).view(-1, N).argmax(1) + torch.arange(8) * N)


def test_an_agent_with_candidates_resumes_exactly(tmp_path):
    def new():
        return toy_policy(dtype=torch.float64), Guide(toy_policy(seed=1, dtype=torch.float64)), toy_envs(8)

    agent = AggreVaTeD(*new(), AggreVaTeDConfig(best_of=2, best_of_by="value", check_model=False))
    history(agent, 1)
    agent.save(tmp_path / "agent")
    again = AggreVaTeD.load(tmp_path / "agent", envs=toy_envs(8))
    assert history(agent, 1) == history(again, 1)


def test_candidates_are_refused_without_a_guide():
    with pytest.raises(ValueError, match="texts must be a whole number of at least 2, got 1"):
        BestOf(1)
    with pytest.raises(ValueError, match="best_of needs a guide"):
        Plan(rollout=OneToken(5), best_of=BestOf(2))
