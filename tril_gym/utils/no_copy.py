"""A holder of objects that deep copies share instead of copying.

Gymnasium deep-copies an environment's keyword arguments several times between `make` and `spec`. Small plain data are
copied (and can be written as JSON); data sets, tokenizers and scores are put in a `NoCopy`, whose deep copy is itself.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

# Lists and dictionaries with more items are data, not settings: a copy would cost time and memory.
MAX_PLAIN_ITEMS = 64


class NoCopy:
    """A holder of one object whose deep copy is itself.

    Two holders are equal where they hold the same object.
    """

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict[int, Any]) -> NoCopy:
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NoCopy) and self.value is other.value

    def __hash__(self) -> int:
        return hash(id(self.value))

    def __repr__(self) -> str:
        return f"NoCopy(<{type(self.value).__name__}>)"


def wrap_no_copy(x: object) -> Any:
    """Return a copy of small plain data (a path becomes a string), and everything else in a `NoCopy`."""
    if isinstance(x, NoCopy):
        return x
    items_left = MAX_PLAIN_ITEMS

    def copy_plain(x: object) -> Any:
        """Return a copy of x, or raise TypeError where it is not small plain data."""
        nonlocal items_left
        items_left -= 1
        if items_left < 0:
            raise TypeError("too large to be a setting")
        if x is None or type(x) in (bool, int, float, str):
            return x
        if isinstance(x, PurePath):
            return str(x)
        if type(x) is list:
            return [copy_plain(item) for item in x]
        if type(x) is tuple:
            return tuple(copy_plain(item) for item in x)
        if type(x) is dict:
            return {copy_plain(key): copy_plain(value) for key, value in x.items()}
        raise TypeError(f"{type(x).__name__} is not plain data")

    try:
        return copy_plain(x)
    except TypeError:
        return NoCopy(x)


def unwrap_no_copy(x: Any) -> Any:
    """Undo `wrap_no_copy`, except that a path stays a string."""
    return x.value if isinstance(x, NoCopy) else x
