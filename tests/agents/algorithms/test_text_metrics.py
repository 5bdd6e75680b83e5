"""Metrics of texts by who wrote them."""

import pytest
import torch
from doubles import EOS, G, OneToken, P, foreign_envs, generator, policy_of, rollins

from tril_gym.agents import Guide, Plan, TextLayout, Trajectories, UniformCut
from tril_gym.agents.algorithms.training_loop import rollin_metrics, text_metrics
from tril_gym.agents.collection.collector import collect
from tril_gym.functional.sampling import Decoding

LAYOUT = TextLayout.of(foreign_envs(8))


def collected(plan: Plan) -> Trajectories:
    return collect(foreign_envs(8), plan, episodes=40, generator=generator(1))


def paid_by_row(trajectories: Trajectories, rewards: list[float]) -> None:
    trajectories.rewards.zero_()
    trajectories.rewards[:, 0] = torch.tensor(rewards, dtype=torch.float64)


def kinds(trajectories: Trajectories) -> list[str]:
    """Who wrote each text, by its tokens."""
    names = []
    for row in range(len(trajectories)):
        tokens = set(trajectories.texts.completion_ids(row)) - {EOS}
        names.append("guide_finished" if tokens == {P, G} else "guide_alone" if G in tokens else "policy_alone")
    return names


def test_rewards_by_who_wrote_the_texts():
    plan = Plan.guide_finishes(OneToken(P), OneToken(G), rollin_prob=0.6, cut=UniformCut(allow_full=True))
    trajectories = collected(plan)
    found = kinds(trajectories)
    assert len(set(found)) == 3
    rewards = {"policy_alone": 5.0, "guide_alone": 7.0, "guide_finished": 11.0}
    paid_by_row(trajectories, [rewards[name] for name in found])
    metrics = rollin_metrics(trajectories, plan, LAYOUT)
    assert {name: metrics[f"reward/{name}"] for name in rewards} == pytest.approx(rewards)
    assert metrics["rollin/prob"] == 0.6
    assert metrics["rollin/length"] == pytest.approx(sum(rollins(trajectories)) / len(rollins(trajectories)))
    assert metrics["rollin/share"] == pytest.approx(1 - found.count("guide_alone") / 40)
    # All texts that the policy wrote whole end with EOS or reach the length limit.
    ended = [EOS in trajectories.texts.completion_ids(row) for row in range(40) if found[row] == "policy_alone"]
    assert metrics["rollin/ended"] == pytest.approx(sum(ended) / (40 - found.count("guide_alone")))


@pytest.mark.parametrize(
    ("rollin_prob", "names"),
    [(0.0, {"guide_alone"}), (1.0, {"guide_finished"}), (0.5, {"guide_alone", "guide_finished"})],
)
def test_only_kinds_of_texts_that_occur_are_reported(rollin_prob, names):
    plan = Plan.guide_finishes(OneToken(P), OneToken(G), rollin_prob=rollin_prob)
    metrics = rollin_metrics(collected(plan), plan, LAYOUT)
    assert {name for name in metrics if name.startswith("reward/")} == {f"reward/{name}" for name in names}


def test_plans_in_which_the_guide_starts_have_none():
    plan = Plan.guide_starts(OneToken(P), OneToken(G), rollin_prob=0.5)
    assert set(rollin_metrics(collected(plan), plan, LAYOUT)) == {
        "rollin/prob",
        "rollin/share",
        "rollin/length",
        "guide/token_share",
    }
    assert rollin_metrics(collected(Plan(rollout=OneToken(P))), Plan(rollout=OneToken(P)), LAYOUT) == {}


@pytest.mark.parametrize("begin", [Plan.guide_starts, Plan.guide_finishes])
def test_the_share_of_tokens_that_the_guide_wrote(begin):
    """The policy writes P, the guide G, and each is counted in the texts themselves."""
    plan = begin(OneToken(P), OneToken(G), rollin_prob=0.5)
    trajectories = collected(plan)
    written = trajectories.tokens[trajectories.is_token]
    share = rollin_metrics(trajectories, plan, LAYOUT)["guide/token_share"]
    assert share == pytest.approx(float((written == G).double().mean()))
    assert 0.1 < share < 0.9


def test_the_probability_that_is_cut_off_is_that_of_the_policys_tokens():
    policy = policy_of("gpt2").with_decoding(Decoding(top_k=2))
    for plan, cuts in (
        (Plan.guide_finishes(policy, Guide(policy_of("gpt2", seed=1)), rollin_prob=0.7), True),
        (Plan.guide_starts(policy, Guide(policy_of("gpt2", seed=1), top_k=2), rollin_prob=0.7), True),
        (Plan.guide_finishes(policy_of("gpt2"), Guide(policy, top_k=2), rollin_prob=0.7), False),
    ):
        trajectories = collected(plan)
        share, wrote = trajectories.cut_mass, trajectories.wrote
        assert share[~wrote].eq(0).all()
        assert bool(share[wrote].gt(0).any()) == cuts
        metric = text_metrics(trajectories, TextLayout.of(foreign_envs(8)))["policy/cut_mass"]
        assert metric == pytest.approx(float(share[wrote].mean()))


def test_scores_are_averaged_over_the_texts_that_have_one():
    trajectories = collected(Plan(rollout=OneToken(P)))
    for row, score in ((0, 3.0), (1, 5.0)):  # the others were truncated
        trajectories.infos[row]["scores"] = {"fluency": score}
    assert text_metrics(trajectories, TextLayout.of(foreign_envs(8)))["score/fluency"] == 4.0


def test_the_share_of_texts_that_ended():
    # Every other text has 3 tokens, the third EOS; the rest are cut at T.
    trajectories = collected(Plan(rollout=OneToken(P, lengths=(3, 99))))
    layout = TextLayout.of(foreign_envs(8))
    assert text_metrics(trajectories, layout)["text/ended"] == 0.5
    # The last place of a full text may hold EOS too, and padding may hold anything.
    trajectories.tokens[trajectories.lengths == 3, 4] = EOS
    assert text_metrics(trajectories, layout)["text/ended"] == 0.5
    trajectories.tokens[trajectories.lengths == 8, 7] = EOS
    assert text_metrics(trajectories, layout)["text/ended"] == 1.0
