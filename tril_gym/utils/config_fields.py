"""Fields of config dataclasses: a default, a line of help and bounds, which the command line and `check_bounds` share.

@dataclass(frozen=True, kw_only=True)
class Config:
    gamma: float = config_field(1.0, "discount per token", minimum=0, maximum=1)

    def __post_init__(self) -> None:
        check_bounds(self)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields
from typing import Any


def config_field(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    group: str = "optimisation",
) -> Any:
    """Return a dataclass field with its line of help and its bounds.

    Args:
        default: the value that a config has where none is given; None means that it follows from something else.
        help: a phrase for `tril-gym train ALGO --help`.
        minimum: the smallest allowed value.
        maximum: the largest allowed value.
        above: an exclusive lower bound, in place of `minimum`.
        below: an exclusive upper bound, in place of `maximum`.
        group: the heading that the option stands under in `--help`.
    """
    bounds = {"minimum": minimum, "maximum": maximum, "above": above, "below": below}
    assert minimum is None or above is None, bounds
    assert maximum is None or below is None, bounds
    return field(default=default, metadata={"help": help, "group": group} | bounds)


def flag_of(name: str) -> str:
    """Return the flag of a field on the command line."""
    return "--" + name.replace("_", "-")


def check_bounds(config: Any) -> None:
    """Refuse every number of a config that is NaN, infinite or out of its field's bounds; None is left alone.

    Raises:
        ValueError: names the field, the rule, the value and the usual value.
    """
    for entry in fields(config):
        value = getattr(config, entry.name)
        bounded = describe_bounds(entry.metadata) != ""
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, float | int):
                _check_number(entry, number, value)
            elif bounded and number is not None:
                raise ValueError(f"{entry.name} must be a number, got {value!r}{_usual(entry)}")


def _check_number(entry: Field[Any], number: float, value: Any) -> None:
    rule = describe_bounds(entry.metadata)
    if not math.isfinite(number):
        rule = f"finite and {rule}" if rule else "finite"
    elif _is_within(entry.metadata, number):
        return
    raise ValueError(f"{entry.name} must be {rule}, got {value}{_usual(entry)}")


def _is_within(bounds: Mapping[str, Any], number: float) -> bool:
    minimum, maximum, above, below = (bounds.get(name) for name in ("minimum", "maximum", "above", "below"))
    return not (
        (minimum is not None and number < minimum)
        or (maximum is not None and number > maximum)
        or (above is not None and number <= above)
        or (below is not None and number >= below)
    )


def describe_bounds(metadata: Mapping[str, Any]) -> str:
    """Return the bounds of a field in words, from its metadata, such as "above 0" or "in [0, 1)"; "" without bounds."""
    minimum, maximum, above, below = (metadata.get(name) for name in ("minimum", "maximum", "above", "below"))
    lower = f"[{minimum}" if above is None else f"({above}"
    upper = f"{maximum}]" if below is None else f"{below})"
    has_lower, has_upper = (minimum, above) != (None, None), (maximum, below) != (None, None)
    if has_lower and has_upper:
        return f"in {lower}, {upper}"
    if has_lower:
        return f"at least {minimum}" if above is None else f"above {above}"
    if has_upper:
        return f"at most {maximum}" if below is None else f"below {below}"
    return ""


def _usual(entry: Field[Any]) -> str:
    return "" if entry.default in (None, MISSING) else f"; the usual value is {entry.default}"
