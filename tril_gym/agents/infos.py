"""Gymnasium's batched infos, taken apart again into one dictionary a row.

A vector environment stacks the infos of its rows: `{"prompt": (n,) array, "_prompt": (n,) mask}`, dictionaries nested
likewise. What agents do is per text, so they need them per text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tril_gym.agents.trajectories import Info, Infos


def row_infos(infos: Mapping[str, Any], rows: Iterable[int]) -> Infos:
    """The infos of some rows of a vector environment, with numbers as Python scalars."""
    return [_row(infos, row) for row in rows]


def _row(infos: Mapping[str, Any], row: int) -> Info:
    found: Info = {}
    for key, values in infos.items():
        present = infos.get(f"_{key}")
        if present is None or not present[row]:
            continue  # a mask itself, or a key that this row does not have
        if isinstance(values, Mapping):
            found[key] = _row(values, row)
        else:
            value = values[row]
            found[key] = value.item() if isinstance(value, np.generic) else value
    return found
