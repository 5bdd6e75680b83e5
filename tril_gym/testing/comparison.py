"""Where two pieces of data differ: the comparison of all checks."""

from __future__ import annotations

from typing import Any

import numpy as np


def difference(one: Any, other: Any, where: str = "", *, tolerance: float = 0.0) -> str | None:
    """Return in words where two pieces of data first differ in type, keys, shape, dtype or value; None if nowhere.

    NaN, as data have it for a number that is missing, equals NaN.

    Args:
        one: a value, or dictionaries, lists, tuples and arrays of values.
        other: what it is compared with.
        where: name of the values, with which the answer begins.
        tolerance: largest difference of numbers that are not integers.
    """
    if type(one) is not type(other):
        return f"{where}: {type(one).__name__} {one!r} and {type(other).__name__} {other!r}".removeprefix(": ")
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return f"{where}: keys {sorted(map(str, one))} and {sorted(map(str, other))}".removeprefix(": ")
        return _first_difference([(f"{where}[{key!r}]", one[key], other[key]) for key in one], tolerance)
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return f"{where}: lengths {len(one)} and {len(other)}".removeprefix(": ")
        return _first_difference([(f"{where}[{i}]", x, other[i]) for i, x in enumerate(one)], tolerance)
    if isinstance(one, np.ndarray):
        return _array_difference(one, other, where, tolerance)
    if isinstance(one, float | np.floating):
        is_same = one == other or abs(one - other) <= tolerance or bool(np.isnan(one) and np.isnan(other))
    else:
        is_same = bool(one == other)
    return None if is_same else f"{where}: {one!r} and {other!r}".removeprefix(": ")


def _first_difference(parts: list[tuple[str, Any, Any]], tolerance: float) -> str | None:
    found = (difference(one, other, where, tolerance=tolerance) for where, one, other in parts)
    return next((answer for answer in found if answer is not None), None)


def _array_difference(one: Any, other: Any, where: str, tolerance: float) -> str | None:
    if one.shape != other.shape or one.dtype != other.dtype:
        shapes = f"{one.dtype} {one.shape} and {other.dtype} {other.shape}"
        return f"{where}: arrays {shapes}".removeprefix(": ")
    if one.dtype == object:
        parts = [(f"{where}[{i}]", x, other.flat[i]) for i, x in enumerate(one.flat)]
        return _first_difference(parts, tolerance)
    is_float = np.issubdtype(one.dtype, np.floating)
    is_same = (
        np.allclose(one, other, rtol=0, atol=tolerance, equal_nan=True) if is_float else np.array_equal(one, other)
    )
    return None if is_same else f"{where}: {one.tolist()} and {other.tolist()}".removeprefix(": ")
