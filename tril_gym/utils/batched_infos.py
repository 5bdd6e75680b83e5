"""Batched infos of Gymnasium's vector environments: rows that have a key, the info of one row, and batching."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def rows_with(infos: Mapping[str, Any], key: str) -> list[int]:
    """Return the rows that have a key, in ascending order."""
    return np.flatnonzero(infos[f"_{key}"]).tolist() if f"_{key}" in infos else []


def row_of(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Return the info of one row, with numbers as Python scalars: the inverse of `VectorEnv._add_info`."""
    own = [key for key in infos if f"_{key}" in infos and infos[f"_{key}"][row]]
    return {key: _cell(infos[key], row) for key in own}


def batched(infos: Mapping[int, Mapping[str, Any]], num_envs: int) -> dict[str, Any]:
    """Return the infos of some rows as a batched info, equal to that of repeated `VectorEnv._add_info` calls."""
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
    """Return the values of some rows as an array of n with the dtype of the first, or dictionaries as one."""
    first = next(iter(values.values()))
    if isinstance(first, dict) and not is_object:
        return batched(values, num_envs)
    column: np.ndarray[Any, Any]
    if isinstance(first, np.ndarray) and not is_object:
        column = np.zeros((num_envs, *first.shape), dtype=first.dtype)
    elif type(first) in (int, float, bool) or isinstance(first, np.number):
        column = np.zeros(num_envs, dtype=type(first))
    else:
        column = np.empty(num_envs, dtype=object)  # None in every cell
    for row, value in values.items():
        column[row] = value
    return column


def _cell(values: Any, row: int) -> Any:
    if isinstance(values, dict):
        return row_of(values, row)
    return values[row].item() if isinstance(values[row], np.generic) else values[row]
