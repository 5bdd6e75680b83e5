import math

import pytest
import torch

from tril_gym.functional.rejection import accept, best_of, first_round_pairs

REWARDS = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=torch.float64)
PROPOSAL = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)


def drawn(size, seed=0):
    """Return candidates from the proposal, and one round of uniforms."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.multinomial(PROPOSAL, size, replacement=True, generator=generator)
    return kinds, torch.rand(1, size, generator=generator, dtype=torch.float64)


def test_rounds_by_hand():
    # β = 1. Round 1: r_max = 2, probabilities e^−2 = .135, e^−1.5 = .223, e^−1 = .368, 1; draws .2, .2, .9, .9.
    # Round 2 over rows 0 and 2: r_max = 1, probabilities .368, 1; draws .3, .5.
    draws = torch.tensor([[0.2, 0.2, 0.9, 0.9], [0.3, 0.0, 0.5, 0.0]])
    assert accept(REWARDS, draws, beta=1.0, want=4).tolist() == [1, 3, 0, 2]
    assert accept(REWARDS, draws, beta=1.0, want=3).tolist() == [1, 3, 0]
    # The control: with the first round's r_max in the second, row 0 would need a draw below .135.
    assert accept(REWARDS[[0, 3]], draws[:, [0, 3]], beta=1.0, want=2)[:1].tolist() == [1]


def test_acceptance_rate_and_distribution_of_a_round():
    beta, size = 0.8, 40_000
    kinds, draws = drawn(size)
    accepted = accept(REWARDS[kinds], draws, beta=beta, want=size)
    weights = PROPOSAL * ((REWARDS - 2.0) / beta).exp()
    assert len(accepted) / size == pytest.approx(float(weights.sum()), abs=0.01)
    shares = torch.bincount(kinds[accepted], minlength=4) / len(accepted)
    assert (shares - weights / weights.sum()).abs().max() < 0.012
    assert (shares - PROPOSAL).abs().max() > 0.1  # control: not the proposal's


def test_limits_of_beta():
    kinds, draws = drawn(200)
    assert len(accept(REWARDS[kinds], draws, beta=1e9, want=200)) == 200  # plain samples
    best = accept(REWARDS[kinds], draws, beta=1e-9, want=200)
    assert set(kinds[best].tolist()) == {3}  # best of N


def test_a_constant_changes_nothing():
    kinds, draws = drawn(100)
    rewards = REWARDS[kinds]
    assert accept(rewards + 64, draws, beta=0.5, want=10).equal(accept(rewards, draws, beta=0.5, want=10))
    assert not accept(rewards * 2, draws, beta=0.5, want=10).equal(accept(rewards, draws, beta=0.5, want=10))


def test_no_duplicates_and_never_too_few():
    generator = torch.Generator().manual_seed(3)
    rewards, draws = torch.arange(8.0), torch.rand(8, 8, generator=generator)
    accepted = accept(rewards, draws, beta=1e-3, want=8)
    assert accepted.tolist() == [7, 6, 5, 4, 3, 2, 1, 0]  # one a round, the best of those that are left


def test_pairs_have_the_better_text_first():
    accepted = torch.tensor([0, 3, 2, 1, 1])
    assert first_round_pairs(accepted, REWARDS).tolist() == [[3, 0], [2, 1]]
    assert first_round_pairs(torch.tensor([0, 1]), torch.zeros(2)).tolist() == []  # a tie is no preference
    sums = torch.tensor([0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1], dtype=torch.float64)  # equal but for rounding
    assert sums[0] != sums[1]
    assert first_round_pairs(torch.tensor([0, 1]), sums).tolist() == []
    assert best_of(torch.tensor([1.0, 3.0, 3.0, 2.0]), 2).tolist() == [1, 2]


@pytest.mark.parametrize("n", [2, 4, 16])
def test_the_best_of_n_has_a_known_distribution_whose_kl_is_bounded(n):
    """KL(best-of-n ‖ π) ≤ log n − (n − 1)/n, exactly computed for distinct rewards."""
    below = PROPOSAL.cumsum(0)
    best = below**n - torch.cat([torch.zeros(1), below[:-1]]) ** n  # the rewards rise with the number of the text
    rewards, generator = torch.arange(len(PROPOSAL)).double(), torch.Generator().manual_seed(0)
    texts = torch.multinomial(PROPOSAL.expand(4000, -1), n, replacement=True, generator=generator)
    chosen = torch.stack([row[best_of(rewards[row], 1)][0] for row in texts])
    found = torch.bincount(chosen, minlength=len(PROPOSAL)) / len(texts)
    assert float((found - best).abs().max()) < 0.03
    assert float((found - PROPOSAL).abs().max()) > 0.1  # the control
    kl = float((best * (best / PROPOSAL).log()).sum())
    assert 0 < kl <= math.log(n) - (n - 1) / n
