"""Sums, means and variances over the cells of a tensor where a mask is True.

Cells outside the mask are selected away, never multiplied by 0: 0 · NaN is NaN. They may hold anything, and affect
neither the result nor the gradient with respect to `values`. Every result is at least float32.

Values and mask have one shape, any shape; a mask does not broadcast.
"""

import torch
from torch import Tensor


def select(values: Tensor, mask: Tensor) -> Tensor:
    """Return the values where the mask is True, 0 elsewhere, in at least float32."""
    assert values.shape == mask.shape, (values.shape, mask.shape)
    assert mask.dtype == torch.bool, mask.dtype
    return torch.where(mask, values.to(torch.promote_types(values.dtype, torch.float32)), 0.0)


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Return the sum where the mask is True: a scalar, 0 with zero gradient for an empty mask."""
    return select(values, mask).sum()


def masked_mean(
    values: Tensor, mask: Tensor, count: int | float | Tensor | None = None, *, weights: Tensor | None = None
) -> Tensor:
    """Return the mean where the mask is True: a scalar, 0 with zero gradient for an empty mask.

    Args:
        values: numbers, or bools for a share.
        mask: bool, of the same shape.
        count: divisor; by default the number of True cells. Parts of a batch, each divided by the count of
            the whole batch, add up to the mean of the whole batch; where N processes average their gradients, it is
            the count over all of them divided by N, which may be a fraction.
        weights: of the values in the sum, of the same shape; they do not change the divisor. None: 1.
    """
    total = masked_sum(values if weights is None else values * weights, mask)
    count = torch.as_tensor(mask.sum() if count is None else count, dtype=total.dtype, device=total.device)
    assert count.ndim == 0, count.shape
    return total / torch.where(count > 0, count, 1.0)


def mean_of_all(values: Tensor, count: int | float | Tensor | None = None) -> Tensor:
    """Return the sum of all values divided by `count`, by default their number: a scalar; see `masked_mean`."""
    return masked_mean(values, torch.ones_like(values, dtype=torch.bool), count)


def masked_centre(values: Tensor, mask: Tensor) -> Tensor:
    """Subtract the mean of the values, 0 outside the mask.

    Twice, which removes the rounding error of the first mean: equal values become 0, not noise that a division by their
    standard deviation would amplify.
    """
    centred = select(values - masked_mean(values, mask), mask)
    return select(centred - masked_mean(centred, mask), mask)


def masked_var(values: Tensor, mask: Tensor) -> Tensor:
    """Return the biased variance where the mask is True: 0 for a single value."""
    return masked_mean(masked_centre(values, mask).square(), mask)


def masked_std(values: Tensor, mask: Tensor) -> Tensor:
    """Return the biased standard deviation where the mask is True: 0 for a single value and for none."""
    return masked_var(values, mask).sqrt()


def masked_whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Standardise values to mean 0 and standard deviation 1; 0 outside the mask, and everywhere if all are equal."""
    return masked_centre(values, mask) / (masked_std(values, mask) + 1e-8)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Return the share of the variance of the returns that the critic's values explain: a scalar.

        1 − Var(returns − values) / Var(returns)

    1 for a perfect critic, 0 for a constant one, negative for one worse than a constant. 0 if the returns do not
    vary beyond rounding.
    """
    returns, values = select(returns, mask), select(values, mask)
    spread = masked_std(returns, mask)
    # (the mean absolute value instead of the maximum, which an empty tensor does not have)
    varies = spread > torch.finfo(spread.dtype).eps * masked_mean(returns.abs(), mask)
    share = 1 - masked_var(returns - values, mask) / torch.where(varies, spread.square(), 1.0)
    return torch.where(varies, share, 0.0)
