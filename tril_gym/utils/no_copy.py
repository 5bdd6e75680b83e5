"""Objects that survive deep copies: a specification is copied, the data set that it names is not.

Gymnasium deep-copies an environment's keyword arguments several times on the way from `make` to `spec`. Small plain
data may be copied (and can be written as JSON); data sets, tokenizers and scores are held by a `NoCopy` instead, whose
deep copy is itself.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

# Above this many leaves a list or dictionary is data, not a setting: copying it would cost time and memory.
SMALL = 64


class NoCopy:
    """Holds one object; a deep copy of the holder is the holder.

    Equal to another holder when both hold the very same object.
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
    """Return small plain data as it is (a path as a string), and everything else in a `NoCopy`."""
    if isinstance(x, NoCopy):
        return x
    room = SMALL

    def plain(x: object) -> Any:
        """Return a plain copy of x, or raise TypeError where it is not small plain data."""
        nonlocal room
        room -= 1
        if room < 0:
            raise TypeError("too large to be a setting")
        if x is None or type(x) in (bool, int, float, str):
            return x
        if isinstance(x, PurePath):
            return str(x)
        if type(x) is list:
            return [plain(item) for item in x]
        if type(x) is tuple:
            return tuple(plain(item) for item in x)
        if type(x) is dict:
            return {plain(key): plain(value) for key, value in x.items()}
        raise TypeError(f"{type(x).__name__} is not plain data")

    try:
        return plain(x)
    except TypeError:
        return NoCopy(x)


def unwrap_no_copy(x: Any) -> Any:
    """Return what `wrap_no_copy` was given (a path comes back as a string)."""
    return x.value if isinstance(x, NoCopy) else x
