"""Where rollins are cut: bounds, distributions and schedules of every cut."""

import math

import numpy as np
import pytest

from tril_gym.agents.collection.cuts import BackwardCut, BinomialCut, ShareCut, UniformCut, make_cut, switch_points

LENGTHS = np.repeat([1, 2, 5, 9], 2500)
UNIFORMS = np.random.default_rng(0).random(len(LENGTHS))
CUTS = [UniformCut(), UniformCut(from_prompt=True), ShareCut(0.5), BackwardCut(10), BinomialCut(10)]


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("iteration", [0, 3, 10, 99])
def test_a_token_is_left_for_the_rollout(cut, iteration):
    switches = cut(LENGTHS, UNIFORMS, iteration)
    assert switches.dtype == np.int64
    assert ((switches >= 0) & (switches < LENGTHS)).all()


def test_default_is_the_published_rule():
    assert (UniformCut()(LENGTHS, UNIFORMS, 0) == switch_points(LENGTHS, UNIFORMS)).all()
    full = UniformCut(allow_full=True)(LENGTHS, UNIFORMS, 0)
    assert full.max() == 9


def test_first_state_is_as_likely_as_others():
    switches = UniformCut(from_prompt=True)(LENGTHS, UNIFORMS, 0)[LENGTHS == 5]
    counts = np.bincount(switches, minlength=5)
    expected = len(switches) / 5
    assert ((counts - expected) ** 2 / expected).sum() < 18.5  # 99.9 % of chi-squared with 4 degrees of freedom
    assert UniformCut()(LENGTHS, UNIFORMS, 0)[LENGTHS == 5].min() == 1  # the control


def test_shares_and_stages_by_hand():
    lengths, uniforms = np.array([1, 2, 5, 9]), np.zeros(4)
    assert ShareCut(0.5)(lengths, uniforms, 0).tolist() == [0, 1, 2, 4]
    assert ShareCut(1.0)(lengths, uniforms, 0).tolist() == [0, 1, 4, 8]
    assert [BackwardCut(4)(lengths, uniforms, i)[3] for i in range(6)] == [8, 6, 4, 2, 0, 0]


def test_rounding_takes_no_token():
    # A fifth of 5 and 0.29 of 100 are whole, and below it in floating point.
    assert BackwardCut(10)(np.array([6]), np.zeros(1), 8).tolist() == [1]
    assert ShareCut(0.29)(np.array([100]), np.zeros(1), 0).tolist() == [29]


@pytest.mark.parametrize(
    ("iteration", "p"), [(0, 1.0), (5, 0.5), (8, 0.5 * (1 + math.cos(0.8 * math.pi))), (10, 0.0), (20, 0.0)]
)
def test_binomial_has_mean_and_variance_of_its_schedule(iteration, p):
    switches = BinomialCut(10)(LENGTHS, UNIFORMS, iteration)[LENGTHS == 9]
    assert switches.mean() == pytest.approx(8 * p, abs=0.1)
    assert switches.var() == pytest.approx(8 * p * (1 - p), abs=0.15)


def test_schedules_need_their_end():
    with pytest.raises(ValueError, match="cut is backward, so cut_iterations must say"):
        make_cut("backward", share=0.5, iterations=None)
    assert make_cut("binomial", share=0.5, iterations=7) == BinomialCut(7)
    assert make_cut("backward", share=0.5, iterations=7) == BackwardCut(7)


@pytest.mark.parametrize(
    ("kind", "longest"), [("uniform", 5), ("uniform_from_prompt", 5), ("share", 2), ("backward", 2), ("binomial", 4)]
)
def test_whole_rollins_are_kept_by_uniform_cuts_only(kind, longest):
    lengths, uniforms = np.full(1000, 5), UNIFORMS[:1000]
    cut = make_cut(kind, share=0.5, iterations=4, allow_full=True)
    assert cut(lengths, uniforms, 2).max() == longest
    assert make_cut(kind, share=0.5, iterations=4)(lengths, uniforms, 2).max() == min(longest, 4)
