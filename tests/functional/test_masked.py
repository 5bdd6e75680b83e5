import math
import statistics

import numpy as np
import pytest
import torch

from tril_gym.functional.masked import (
    explained_variance,
    masked_centre,
    masked_mean,
    masked_std,
    masked_sum,
    masked_var,
    masked_whiten,
    select,
)

VALUES = torch.tensor([[1.0, 2.0, 50.0], [6.0, 60.0, 70.0]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_by_hand():
    # Inside the mask stand 1, 2 and 6: sum 9, mean 3, deviations −2, −1, 3, variance (4 + 1 + 9) / 3.
    assert masked_sum(VALUES, MASK) == 9
    assert masked_mean(VALUES, MASK) == 3
    torch.testing.assert_close(masked_var(VALUES, MASK), torch.tensor(14 / 3))
    torch.testing.assert_close(masked_std(VALUES, MASK), torch.tensor(math.sqrt(14 / 3)))
    centred = torch.tensor([[-2.0, -1.0, 0.0], [3.0, 0.0, 0.0]])
    assert torch.equal(masked_centre(VALUES, MASK), centred)
    assert torch.equal(select(VALUES, MASK), torch.tensor([[1.0, 2.0, 0.0], [6.0, 0.0, 0.0]]))
    whitened = centred / math.sqrt(14 / 3)
    torch.testing.assert_close(masked_whiten(VALUES, MASK), whitened)


def test_mean_of_bools_is_a_share():
    assert masked_mean(VALUES > 1.5, MASK) == pytest.approx(2 / 3)


def test_count_takes_the_place_of_the_number_of_cells():
    for count in (18, 18.0, torch.tensor(18)):
        assert masked_mean(VALUES, MASK, count) == 0.5


@pytest.mark.parametrize("count", [None, 0, torch.tensor(0)])
def test_mean_over_nothing_is_0_with_zero_gradient(count, garbage):
    values = torch.full((2, 3), garbage, requires_grad=True)
    mean = masked_mean(values, torch.zeros(2, 3, dtype=torch.bool), count)
    mean.backward()
    assert mean == 0
    assert (values.grad == 0).all()


def test_nothing_is_fine_everywhere():
    values, mask = torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.bool)
    for figure in (masked_sum, masked_mean, masked_var, masked_std):
        assert figure(values, mask) == 0
    assert select(values, mask).shape == masked_centre(values, mask).shape == (0, 3)
    assert masked_whiten(values, mask).shape == (0, 3)
    assert explained_variance(values, values, mask) == 0


@pytest.mark.parametrize(
    "figure", [select, masked_sum, masked_mean, masked_centre, masked_var, masked_std, masked_whiten]
)
def test_values_outside_the_mask_have_no_effect(figure, garbage):
    results, gradients = [], []
    for fill in (0.0, garbage):
        values = torch.where(MASK, VALUES, fill).requires_grad_()
        result = figure(values, MASK)
        (result.square() * torch.arange(1.0, 1 + result.numel()).view_as(result)).sum().backward()
        results.append(result)
        gradients.append(values.grad)
    assert torch.equal(*results)
    assert torch.equal(*gradients)
    assert gradients[0].isfinite().all()


def test_multiplying_would_have_spread_it():
    # The control of the test above: what it guards against does happen.
    values = torch.where(MASK, VALUES, math.nan)
    assert (values * MASK).sum().isnan()
    assert torch.nan_to_num(values * MASK, nan=-1.0).sum() != masked_sum(values, MASK)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_divided_by_the_whole_count_add_up(parts):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(8, 5, generator=generator) < 0.6
    split = list(zip(values.chunk(parts), mask.chunk(parts), strict=True))
    accumulated = sum(masked_mean(v, m, mask.sum()) for v, m in split)
    torch.testing.assert_close(accumulated, masked_mean(values, mask), rtol=1e-12, atol=0)
    # Processes that average their gradients divide by their share of the count, here a fraction.
    averaged = sum(masked_mean(v, m, mask.sum() / parts) for v, m in split) / parts
    torch.testing.assert_close(averaged, masked_mean(values, mask), rtol=1e-12, atol=0)


def test_a_fraction_of_a_token_is_not_rounded_up():
    # One token over two processes: half a token each, and the average over the processes is the token's value.
    value, nothing = torch.tensor([3.0]), torch.tensor([9.0])
    here = masked_mean(value, torch.tensor([True]), count=0.5)
    there = masked_mean(nothing, torch.tensor([False]), count=0.5)
    assert (here + there) / 2 == 3


def test_half_precision_is_summed_in_float32():
    # bfloat16 has no 257.
    total = masked_sum(torch.ones(257, dtype=torch.bfloat16), torch.ones(257, dtype=torch.bool))
    assert total.dtype == torch.float32
    assert total == 257


def test_against_the_standard_library():
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(6, 7, generator=generator, dtype=torch.float64) * 3 + 5
    mask = torch.rand(6, 7, generator=generator) < 0.5
    inside = [values[i, j].item() for i in range(6) for j in range(7) if mask[i, j]]
    assert masked_mean(values, mask).item() == pytest.approx(statistics.fmean(inside), rel=1e-12)
    assert masked_var(values, mask).item() == pytest.approx(statistics.pvariance(inside), rel=1e-12)
    whitened = [(x - statistics.fmean(inside)) / statistics.pstdev(inside) for x in inside]
    assert masked_whiten(values, mask)[mask].tolist() == pytest.approx(whitened, rel=1e-6)


def test_against_numpys_masked_arrays():
    generator = torch.Generator().manual_seed(2)
    values, returns = torch.randn(2, 6, 7, generator=generator, dtype=torch.float64)
    returns = 3 * returns + values
    mask = torch.rand(6, 7, generator=generator) < 0.5
    v, r = (np.ma.array(tensor.numpy(), mask=~mask.numpy()) for tensor in (values, returns))
    expected = {masked_sum: v.sum(), masked_mean: v.mean(), masked_var: v.var(), masked_std: v.std()}
    for figure, value in expected.items():
        assert figure(values, mask).item() == pytest.approx(float(value), rel=1e-12)
    assert masked_centre(values, mask).tolist() == pytest.approx((v - v.mean()).filled(0.0), abs=1e-12)
    share = explained_variance(values, returns, mask).item()
    assert share == pytest.approx(float(1 - (r - v).var() / r.var()), rel=1e-12)
    assert 0.05 < share < 0.95
    # The controls: over the count less one, or over all cells, they are others.
    assert masked_var(values, mask).item() != pytest.approx(float(v.var(ddof=1)), rel=1e-3)
    assert masked_var(values, mask).item() != pytest.approx(values.numpy().var(), rel=1e-3)


@pytest.mark.parametrize("value", [0.1, 10.1, -1e6 / 3])
def test_whitening_equal_values_gives_0_not_magnified_rounding(value):
    values, mask = torch.full((3, 11), value), torch.ones(3, 11, dtype=torch.bool)
    mask[2, 4:] = False
    assert masked_whiten(values, mask).abs().max() < 1e-3


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_whitening_forgets_scale_and_shift(scale):
    torch.testing.assert_close(
        masked_whiten(VALUES * scale + scale, MASK), masked_whiten(VALUES, MASK), rtol=1e-3, atol=0
    )


def test_explained_variance_of_perfect_constant_and_bad_critics(garbage):
    returns = torch.where(MASK, VALUES, garbage)
    assert explained_variance(returns, returns, MASK) == 1
    assert explained_variance(torch.full_like(returns, 7.0), returns, MASK).item() == pytest.approx(0, abs=1e-6)
    # values −R: residual 2R, four times the variance: 1 − 4.
    assert explained_variance(-returns, returns, MASK).item() == pytest.approx(-3)
    # values R/2: residual R/2, a quarter of the variance. A shift costs nothing.
    assert explained_variance(returns / 2 + 9, returns, MASK).item() == pytest.approx(0.75)


@pytest.mark.parametrize("value", [0.0, 0.1, 10.1])
def test_explained_variance_is_0_where_the_returns_do_not_vary(value):
    returns = torch.full((2, 3), value)
    assert explained_variance(VALUES, returns, MASK) == 0
    assert explained_variance(returns, returns, MASK) == 0


def test_shapes_that_would_broadcast_are_refused():
    for values, mask in ((torch.zeros(2, 3), torch.ones(2, 1).bool()), (torch.zeros(2, 1), torch.ones(2, 3).bool())):
        with pytest.raises(AssertionError):
            select(values, mask)
    with pytest.raises(AssertionError):
        masked_mean(VALUES, MASK.float())
    with pytest.raises(AssertionError):
        masked_mean(VALUES, MASK, count=torch.tensor([3.0]))
