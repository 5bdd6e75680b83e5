"""Batched infos of Gymnasium's vector environments: rows that have a key, the info of one row, and batching."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def rows_with(infos: Mapping[str, Any], key: str) -> list[int]:
    """Return the rows that have a key, in ascending order."""
    return np.flatnonzero(infos[f"_{key}"]).tolist() if f"_{key}" in infos else []


def row_of(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Return the info of one row, with numbers as Python scalars: the inverse of `VectorEnv._add_info`."""
    own = [key for key in infos if f"_{key}" in infos and infos[f"_{key}"][row]]
    return {key: _cell(infos[key], row) for key in own}


def with_own_numbers(given: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of one row with the numbers that batching by Gymnasium has converted, such as 2.5 to 2, undone.

    Args:
        given: the data of the row as they were batched.
        own: the data of the row before.
    """
    found = dict(given)
    for key in given.keys() & own.keys():
        if isinstance(given[key], dict) and isinstance(own[key], dict):
            found[key] = with_own_numbers(given[key], own[key])
        elif _is_number(given[key]) and _is_number(own[key]) and type(given[key])(own[key]) == given[key]:
            found[key] = own[key]
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.number)


def batched(infos: Mapping[int, Mapping[str, Any]], num_envs: int) -> dict[str, Any]:
    """Return the infos of some rows as a batched info, equal to that of repeated `VectorEnv._add_info` calls.

    Except that values of several kinds, such as 3 and 2.5, stay as they are in an array of objects: Gymnasium converts
    all of them to the type of the first, so that 2.5 becomes 2.
    """
    columns: dict[str, dict[int, Any]] = {}
    for row, info in infos.items():
        for key, value in info.items():
            columns.setdefault(key, {})[row] = value
    result: dict[str, Any] = {}
    for key, column in columns.items():
        result[key] = _column(column, num_envs, is_object=key == "final_obs")
        result[f"_{key}"] = has = np.zeros(num_envs, dtype=bool)
        has[list(column)] = True
    return result


def _column(values: Mapping[int, Any], num_envs: int, *, is_object: bool) -> Any:
    """Return the values of some rows as an array of n, of numbers or arrays of one kind, or dictionaries as one."""
    kinds = {None} if is_object else {_kind(value) for value in values.values()}
    if kinds == {dict} and not _has_key_like_a_mask(values.values()):
        return batched(values, num_envs)
    column: np.ndarray[Any, Any] = np.empty(num_envs, dtype=object)  # None in every cell
    if len(kinds) == 1 and kinds.isdisjoint({None, dict}):
        first = next(iter(values.values()))
        column = np.zeros((num_envs, *np.shape(first)), dtype=getattr(first, "dtype", type(first)))
    for row, value in values.items():
        column[row] = value
    return column


def _has_key_like_a_mask(dictionaries: Iterable[Mapping[Any, Any]]) -> bool:
    """Return whether some keys are equal but for a leading underscore, with which batched infos have a mask."""
    keys = {key for dictionary in dictionaries for key in dictionary}
    return any(f"_{key}" in keys for key in keys)


def _kind(value: Any) -> Any:
    """Return what values have in common that one array or dictionary holds; None for other objects."""
    if isinstance(value, dict):
        return dict
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape
    is_number = type(value) in (int, float, bool) or isinstance(value, np.number)
    return type(value) if is_number and (type(value) is not int or -(2**63) <= value < 2**63) else None


def _cell(values: Any, row: int) -> Any:
    if isinstance(values, dict):
        return row_of(values, row)
    return values[row].item() if isinstance(values[row], np.generic) else values[row]
