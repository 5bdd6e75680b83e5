"""The standard deviation of numbers that arrive in batches."""

import pytest
import torch

from tril_gym.functional.running import RunningStd


def test_two_batches_by_hand():
    # 1, 3: μ = 2, M = 2. Then 4, 8: ν = 6, K = 8; δ = 4, so μ = 2 + 4 · 2/4 = 4 and M = 2 + 8 + 16 · 2 · 2/4 = 26.
    running = RunningStd()
    running.update(torch.tensor([1.0, 3.0]))
    assert (running.count, running.mean, running.squares, running.std) == (2, 2.0, 2.0, 1.0)
    running.update(torch.tensor([4.0, 8.0]))
    assert (running.count, running.mean, running.squares) == (4, 4.0, 26.0)
    assert running.std == pytest.approx((26 / 4) ** 0.5)


def test_it_is_that_of_all_numbers_at_once():
    numbers = 1e6 + torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    running = RunningStd()
    for part in numbers.split([1, 40, 0, 59]):
        running.update(part)
    assert running.std == pytest.approx(float(numbers.std(correction=0)), rel=1e-9)
    assert running.std != pytest.approx(float(numbers.std(correction=1)), rel=1e-9)  # control: the unbiased one


@pytest.mark.parametrize("numbers", [[], [5.0], [0.1] * 7])
def test_without_variation_it_is_zero(numbers):
    running = RunningStd()
    for number in numbers:
        running.update(torch.tensor([number], dtype=torch.float64))
    assert running.std == 0.0


def test_a_saved_one_continues():
    running, loaded = RunningStd(), RunningStd()
    running.update(torch.tensor([1.0, 3.0]))
    loaded.load_state_dict(running.state_dict())
    for one in (running, loaded):
        one.update(torch.tensor([4.0]))
    assert loaded == running
