"""Gymnasium's batched infos: which rows have a key, and one row's own info."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def rows_with(infos: Mapping[str, Any], key: str) -> list[int]:
    """Return the rows that have a key, in order."""
    return np.flatnonzero(infos[f"_{key}"]).tolist() if f"_{key}" in infos else []


def row_of(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Undo `VectorEnv._add_info` for one row: numbers are Python scalars again."""
    own = [key for key in infos if f"_{key}" in infos and infos[f"_{key}"][row]]
    return {key: _cell(infos[key], row) for key in own}


def _cell(values: Any, row: int) -> Any:
    if isinstance(values, dict):
        return row_of(values, row)
    return values[row].item() if isinstance(values[row], np.generic) else values[row]
