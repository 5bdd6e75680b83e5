"""Truncated importance weights against goldens derived by hand, and what they are for."""

import math

import pytest
import torch

from tril_gym.functional.importance import effective_sample_size, importance_weights

NAN = float("nan")
#   π_old / μ:  text 0: 1/2, 3, 2 (a product of 3);  text 1: 4, 1/4 and padding (a product of 1)
RATIOS = torch.tensor([[0.5, 3.0, 2.0], [4.0, 0.25, NAN]], dtype=torch.float64)
WROTE = torch.tensor([[True, True, True], [True, True, False]])
SAMPLED = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, NAN]], dtype=torch.float64)


def weights(level, cap, ratios=RATIOS, sampled=SAMPLED, wrote=WROTE):
    return importance_weights(ratios.log() + sampled, sampled, wrote, level=level, cap=cap).tolist()


@pytest.mark.parametrize(
    ("level", "cap", "expected"),
    [
        ("token", 2.0, [[0.5, 2.0, 2.0], [2.0, 0.25, 0.0]]),  # 3 and 4 are cut to 2
        ("token", 10.0, [[0.5, 3.0, 2.0], [4.0, 0.25, 0.0]]),
        ("sequence", 2.0, [[2.0, 2.0, 2.0], [1.0, 1.0, 0.0]]),  # the product 3 is cut, not its factors
        ("sequence", 10.0, [[3.0, 3.0, 3.0], [1.0, 1.0, 0.0]]),
    ],
)
def test_weights_by_hand(level, cap, expected):
    torch.testing.assert_close(weights(level, cap), expected)


def test_unknown_log_probabilities_count_as_equal():
    sampled = SAMPLED.clone()
    sampled[0, 1] = NAN  # the factor 3
    logprobs = RATIOS.log() + SAMPLED
    logprobs[0, 1] = -2.0
    found = importance_weights(logprobs, sampled, WROTE, level="sequence", cap=10.0)
    torch.testing.assert_close(found.tolist(), [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])


def test_padding_may_be_anything():
    logprobs = RATIOS.log() + SAMPLED
    logprobs[1, 2] = float("inf")
    found = importance_weights(logprobs, SAMPLED.nan_to_num(1e6), WROTE, level="sequence", cap=2.0)
    assert found[1].tolist() == pytest.approx([1.0, 1.0, 0.0])


def test_weighted_mean_is_that_of_the_other_distribution():
    # One token of two words: μ = (0.8, 0.2), π = (0.5, 0.5). E_μ[w f] = E_π[f], f = (1, 3): 2; without weights 1.4.
    mu, pi, f = torch.tensor([0.8, 0.2]), torch.tensor([0.5, 0.5]), torch.tensor([1.0, 3.0])
    each = importance_weights(pi.log()[:, None], mu.log()[:, None], torch.ones(2, 1).bool(), level="token", cap=5.0)
    assert float((mu * each[:, 0] * f).sum()) == pytest.approx(2.0)
    assert float((mu * f).sum()) == pytest.approx(1.4)
    # With C = 1 the second word, whose weight is 2.5, counts too little: 0.8 · 0.625 · 1 + 0.2 · 1 · 3 = 1.1
    cut = importance_weights(pi.log()[:, None], mu.log()[:, None], torch.ones(2, 1).bool(), level="token", cap=1.0)
    assert float((mu * cut[:, 0] * f).sum()) == pytest.approx(1.1)


def test_effective_sample_size_by_hand():
    # (1 + 1 + 2)² / (3 · (1 + 1 + 4)) = 16 / 18
    wrote = torch.tensor([True, True, True, False])
    assert float(effective_sample_size(torch.tensor([1.0, 1.0, 2.0, 9.0]), wrote)) == pytest.approx(16 / 18)
    assert float(effective_sample_size(torch.full((4,), 0.3), wrote)) == pytest.approx(1.0)
    assert float(effective_sample_size(torch.zeros(4), wrote)) == 0.0
    assert not math.isnan(float(effective_sample_size(torch.zeros(0), torch.zeros(0).bool())))
