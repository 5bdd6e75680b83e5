"""The gradient of each algorithm of pairs, in a real update of a real agent, is that of its loss written by hand.

See `test_gradients.py`. Λ, Δ and D are sums over the tokens of a text: of log π, log π/π_ref and log π/π_old.
"""

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from one_update import EPISODES, PAIRS, PROMPTS, collected, small_agent, updated
from torch.nn.functional import logsigmoid

from tril_gym.utils.profiler import Timer


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def shift(text):
    """Δ"""
    return (text.new - text.ref).sum()


def shift_per_token(text):
    return (text.new - text.ref).mean()


def own(text):
    """Λ"""
    return text.new.sum()


def moved(text):
    """D"""
    return (text.new - text.old).sum()


def dpo(margin, beta, smoothing=0.0):
    return -(1 - smoothing) * logsigmoid(beta * margin) - smoothing * logsigmoid(-beta * margin)


def ipo(margin, beta):
    return (margin - 1 / (2 * beta)) ** 2


def hinge(margin, gamma):
    return (1 - gamma * margin).clamp(min=0)


# loss: of the margin of a pair, and what the margin is a difference of
LOSSES = {
    "dpo": ({"loss": "dpo", "beta": 0.3}, partial(dpo, beta=0.3), shift),
    "dpo, smoothed": (
        {"loss": "dpo", "beta": 0.3, "label_smoothing": 0.2},
        partial(dpo, beta=0.3, smoothing=0.2),
        shift,
    ),
    "ipo": ({"loss": "ipo", "beta": 0.2}, partial(ipo, beta=0.2), shift),
    "ipo_mean": ({"loss": "ipo_mean", "beta": 0.2}, partial(ipo, beta=0.2), shift_per_token),
    "hinge": ({"loss": "hinge", "beta": 0.3}, partial(hinge, gamma=0.3), own),
    "hinge_norm": ({"loss": "hinge_norm", "beta": 0.8}, partial(hinge, gamma=0.8), shift),
}


def ids(text):
    """Return the tokens of words and EOS."""
    return [*(int(word[1:]) for word in text.split()), 1]


def given(text):
    """Return the preferred and the other text of a text's prompt."""
    return next(
        (ids(better)[:5], ids(worse)[:5])
        for prompt, (better, worse) in zip(PROMPTS, PAIRS, strict=True)
        if ids(prompt)[:-1] == text.prompt
    )


def of_given_pairs(groups, loss, score):
    for better, worse in groups:
        assert (better.tokens, worse.tokens) == given(better)
    assert len({better.reward > worse.reward for better, worse in groups}) == 2  # the rewards say something else
    return mean(loss(score(better) - score(worse)) for better, worse in groups)


def of_ranked_texts(groups, loss, score):
    """Return the mean over all pairs of texts of a group that are not rewarded alike."""
    pairs = [(x, y) for group in groups for x, y in itertools.permutations(group, 2) if x.reward > y.reward]
    assert len(pairs) < sum(len(group) * (len(group) - 1) / 2 for group in groups)  # there are ties
    return mean(loss(score(better) - score(worse)) for better, worse in pairs)


def of_accepted_pairs(groups, loss, score):
    assert groups
    assert all(better.reward > worse.reward for better, worse in groups)
    return mean(loss(score(better) - score(worse)) for better, worse in groups)


@pytest.mark.parametrize("name", LOSSES)
def test_given_preferences(name):
    numbers, loss, score = LOSSES[name]
    updated(small_agent("dpo", **numbers)).check(partial(of_given_pairs, loss=loss, score=score))


def test_ipo():
    loss = partial(ipo, beta=0.1)
    updated(small_agent("ipo")).check(partial(of_given_pairs, loss=loss, score=shift))


@pytest.mark.parametrize("name", LOSSES)
def test_the_policys_texts_ranked_by_their_rewards(name):
    numbers, loss, score = LOSSES[name]
    agent = small_agent("online-dpo", texts_per_prompt=4, **numbers)
    updated(agent).check(partial(of_ranked_texts, loss=loss, score=score))


def test_groups_without_a_pair_take_no_step_and_are_in_no_metric():
    agent = small_agent("online-dpo", minibatch_size=2, epochs=1)
    batch = collected(agent)
    texts = batch.learned
    is_tied = texts.group % 3 > 0
    rewards = torch.where(is_tied.unsqueeze(1), 0.0, texts.rewards + texts.tokens)  # which seldom has ties
    with_ties = replace(texts, rewards=torch.where(texts.is_token, rewards, 0.0))
    pairs = [group for group in rewards.sum(1).view(-1, 2).tolist() if group[0] != group[1]]
    assert 0 < len(pairs) < EPISODES / 4
    metrics = agent.learner.update(with_ties, agent.plan(0), generator=agent.generator, timer=Timer())
    (steps,) = {int(state["step"]) for state in agent.learner.optimizer.state.values()}
    assert steps == len(pairs)
    lengths = metrics["pair/preferred_length"] + metrics["pair/other_length"]
    learned = texts[(~is_tied).nonzero().squeeze(1)]
    assert lengths == pytest.approx(2 * float(learned.lengths.double().mean()))
    before = [weight.clone() for weight in agent.policy.parameters()]
    none = replace(texts, rewards=torch.zeros_like(texts.rewards))
    assert "pair/accuracy" not in agent.learner.update(none, agent.plan(1), generator=agent.generator, timer=Timer())
    assert all(map(torch.equal, before, agent.policy.parameters()))  # not even by the momentum


@pytest.mark.parametrize(
    ("numbers", "loss"),
    [
        ({}, partial(hinge, gamma=0.05)),
        ({"beta": 0.8}, partial(hinge, gamma=0.8)),
        ({"loss": "dpo"}, partial(dpo, beta=0.05)),
    ],
)
def test_pairs_of_accepted_texts(numbers, loss):
    update = updated(small_agent("rso", texts_per_prompt=6, accepted_texts=6, rejection_beta=2.0, **numbers))
    update.check(partial(of_accepted_pairs, loss=loss, score=shift), update.selected)


def pairs_with_gaps(groups, kl=0.3):
    """Return all pairs of texts of a group, with the difference of their rewards less the KL."""
    return [
        (x, y, sum(x.less_kl(kl)) - sum(y.less_kl(kl))) for group in groups for x, y in itertools.combinations(group, 2)
    ]


def rebel(groups, eta):
    return mean((moved(x) - moved(y) - eta * gap) ** 2 for x, y, gap in pairs_with_gaps(groups))


def p3o(groups):
    losses = []
    for x, y, gap in pairs_with_gaps(groups):
        for one, other, sign in ((x, y, 1), (y, x, -1)):
            weight, ratio = (sign * gap * moved(other).exp()).detach(), moved(one).exp()
            losses.append(-0.5 * torch.minimum(weight * ratio, weight * ratio.clamp(0.7, 1.3)))
    return 2 * mean(losses)


def p3o_joint(groups):
    losses = []
    for x, y, gap in pairs_with_gaps(groups):
        weight = (gap * (moved(x) + moved(y)).exp()).detach()
        apart = moved(x) - moved(y)
        losses.append(-0.5 * torch.minimum(weight * apart, weight * apart.clamp(-0.3, 0.3)))
    return mean(losses)


REGRESSIONS = {
    "rebel": ("rebel", {"eta": 0.7}, partial(rebel, eta=0.7)),
    "rebel, of three texts": ("rebel", {"eta": 2.0, "texts_per_prompt": 3}, partial(rebel, eta=2.0)),
    "p3o": ("p3o", {"clip_range": 0.3}, p3o),
    "p3o, of three texts": ("p3o", {"clip_range": 0.3, "texts_per_prompt": 3}, p3o),
    "p3o, clipped jointly": ("p3o", {"clip_range": 0.3, "loss": "p3o_joint"}, p3o_joint),
}


@pytest.mark.parametrize("name", REGRESSIONS)
def test_differences_of_rewards(name):
    algorithm, numbers, loss = REGRESSIONS[name]
    updated(small_agent(algorithm, kl_coef=0.3, **numbers), noise=0.01).check(loss)


@pytest.mark.parametrize("loss", ["p3o", "p3o_joint"])
def test_the_clip_fraction_is_that_of_pairs_with_a_ratio_outside(loss):
    update = updated(small_agent("p3o", clip_range=0.3, loss=loss, texts_per_prompt=3), noise=0.02)
    groups = update.scored(update.texts, 1)
    pairs = [pair for group in groups for pair in itertools.combinations(group, 2)]
    ratios = [[float(moved(text).detach().exp()) for text in pair] for pair in pairs]
    outside = [tuple(abs(ratio - 1) > 0.3 for ratio in pair) for pair in ratios]
    assert set(outside) == set(itertools.product((False, True), repeat=2))
    # The mean of two steps; at the first one all ratios are 1.
    assert update.metrics["policy/clip_fraction"] == pytest.approx(mean(map(any, outside)) / 2)


def test_the_margins_of_pairs_are_logged():
    update = updated(small_agent("dpo", beta=0.3))
    found = {"accuracy": [], "margin": [], "preferred_logratio": [], "other_logratio": []}
    for step in (0, 1):
        for pair in update.scored(update.texts, step):
            better, worse = (float(shift(text).detach()) for text in pair)
            found["accuracy"].append(float(better > worse))
            found["margin"].append(0.3 * (better - worse))
            found["preferred_logratio"].append(better)
            found["other_logratio"].append(worse)
    assert {f"pair/{name}": mean(values) for name, values in found.items()} == pytest.approx(
        {name: value for name, value in update.metrics.items() if name.startswith("pair/") and "length" not in name}
    )
    lengths = [(len(better.tokens), len(worse.tokens)) for better, worse in update.texts]
    assert update.metrics["pair/preferred_length"] == pytest.approx(mean(length for length, _ in lengths))
    assert update.metrics["pair/other_length"] == pytest.approx(mean(length for _, length in lengths))
