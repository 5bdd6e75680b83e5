"""Fields of config dataclasses: a default, a line of help and bounds, which the command line and `check_bounds` share.

@dataclass(frozen=True, kw_only=True)
class Config:
    gamma: float = config_field(1.0, "discount per token", minimum=0, maximum=1)

    def __post_init__(self) -> None:
        check_bounds(self)
"""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, TypeVar

T = TypeVar("T")

# Bounds beyond which a number is a mistake: training with it gives NaN or moves nothing.
MAX_RATE = 1  # AdamW step size, which moves every weight by about this much
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.001, 100
MAX_EPOCHS = 100_000
MAX_RANK = 65_536  # of LoRA adapters: wider than any layer
MAX_WHOLE = 2**53  # of any whole number: larger ones overflow
TRUTH_VALUES = dict.fromkeys(("yes", "true", "on"), "True") | dict.fromkeys(("no", "false", "off"), "False")  # as text
MAX_COEFFICIENT = 1_000_000  # weight of a term of a loss or a reward


def config_field(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    group: str = "optimisation",
    only_with: tuple[str, ...] | None = None,
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
        only_with: another field, followed by the values of it with which this one is read; without values, it is read
            where the other is not its default.
    """
    bounds = {"minimum": minimum, "maximum": maximum, "above": above, "below": below}
    assert minimum is None or above is None, bounds
    assert maximum is None or below is None, bounds
    return field(default=default, metadata={"help": help, "group": group, "only_with": only_with} | bounds)


def with_defaults(**defaults: Any) -> Callable[[type], type]:
    """Return a decorator that gives a subclass of a config other defaults: the same fields, one algorithm's values.

    @with_defaults(gamma=0.99)
    class OtherConfig(Config):
        ...

    Raises:
        TypeError: the config has no such field.
    """

    def decorate(kind: Any) -> Any:
        known, hints = {entry.name: entry for entry in fields(kind)}, typing.get_type_hints(kind)
        if unknown := sorted(defaults.keys() - known.keys()):
            raise TypeError(f"{kind.__name__} has no field {unknown[0]!r} to give another default")
        kind.__annotations__ = {name: hints[name] for name in defaults}
        for name, value in defaults.items():
            setattr(kind, name, field(default=value, metadata=known[name].metadata))
        return dataclass(frozen=True, kw_only=True)(kind)

    return decorate


def flag_of(name: str) -> str:
    """Return the flag of a field on the command line."""
    return "--" + name.replace("_", "-")


def is_read(entry: Field[Any], values: Mapping[str, Any], usual: Mapping[str, Any]) -> bool:
    """Return whether a field has an effect beside the values of the others, of which `usual` has the defaults."""
    if entry.metadata.get("only_with") is None:
        return True
    other, *needed = entry.metadata["only_with"]
    return bool(values[other] in needed if needed else values[other] != usual[other])


def unread_fields(config_type: type, values: Mapping[str, Any], name_of: Callable[[str], str] = str) -> dict[str, str]:
    """Return the fields that have no effect beside the others and are not the default, each with the reason in words.

    Args:
        config_type: the dataclass.
        values: those of all its fields.
        name_of: field -> its name for the user, such as its flag.
    """
    usual, found = {entry.name: entry.default for entry in fields(config_type)}, {}
    for entry in fields(config_type):
        if values[entry.name] != usual[entry.name] and not is_read(entry, values, usual):
            other, *needed = entry.metadata["only_with"]
            now = "is not given" if values[other] is None else f"is {values[other]}"
            found[entry.name] = f"{name_of(other)} {now}" + (f", and it is for {', '.join(needed)}" if needed else "")
    return found


def check_bounds(config: Any) -> None:
    """Refuse every value of a config that is of another type than its field, NaN, infinite or out of its bounds.

    None is allowed where the field's type has it.

    Raises:
        ValueError: names the field, the rule, the value and the usual value.
    """
    kinds = _kinds_of(config.__class__)
    for entry in fields(config):
        value = getattr(config, entry.name)
        if value is None and types.NoneType in kinds[entry.name]:
            continue
        if (rule := _broken_type_rule(kinds[entry.name], value)) is not None:
            way_out = _way_out(kinds[entry.name], value)
            raise ValueError(f"{entry.name} must be {rule}, got {value!r}{way_out}{_usual(entry)}")
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, Real) and not isinstance(number, bool):
                _check_number(entry, number, value)


@functools.cache
def _kinds_of(config_type: type) -> dict[str, tuple[Any, ...]]:
    """Return the types that each field of a dataclass allows."""
    hints = typing.get_type_hints(config_type)
    unions = (types.UnionType, typing.Union)
    return {
        name: typing.get_args(hint) if typing.get_origin(hint) in unions else (hint,) for name, hint in hints.items()
    }


def _broken_type_rule(kinds: tuple[Any, ...], value: Any) -> str | None:
    """Return what a value of these types must be in words, None where it is; other types are not checked."""
    rules = [_type_rule(kind, value) for kind in kinds if kind is not types.NoneType]
    return None if None in rules or not rules else str(rules[0])


def _type_rule(kind: Any, value: Any) -> str | None:
    """Return what a value must be in words to be of this type, None where it is."""
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        return None if value in choices else f"one of {', '.join(map(str, choices))}"
    if typing.get_origin(kind) is tuple:
        is_sequence = isinstance(value, tuple | list)
        return None if is_sequence and all(_type_rule(float, item) is None for item in value) else "numbers"
    if kind is bool:
        return None if isinstance(value, bool) else "True or False"
    if kind in (int, float):
        is_kind = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        # NaN and infinity have a message of their own.
        is_infinite = isinstance(value, float) and not math.isfinite(value)
        return None if is_kind or is_infinite else ("a whole number" if kind is int else "a number")
    if kind is str:
        return None if isinstance(value, str) and value.strip() else "a text that is not empty"
    return None


def _way_out(kinds: tuple[Any, ...], value: Any) -> str:
    """Return "; write …" for a text that spells what was meant, else ""."""
    meant = _meant(kinds, value)
    return f"; write {meant}" if meant else ""


def _meant(kinds: tuple[Any, ...], value: Any) -> str | None:
    """Return what to write for a text that spells a number or a truth value, valid in Python and in YAML; else None."""
    if not isinstance(value, str):
        return None
    text = value.strip().lower()
    if bool in kinds:
        return TRUTH_VALUES.get(text)
    with suppress(ValueError):
        if int in kinds:
            return str(int(text))
        if float in kinds and math.isfinite(number := float(text)):
            mantissa, exponent, power = repr(number).partition("e")
            # YAML reads 1e-05 as a text, 1.0e-05 as a number.
            return mantissa + (".0" if exponent and "." not in mantissa else "") + exponent + power
    return None


def check_choice(name: str, value: T, choices: Sequence[T], *, usual: T | None = None) -> T:
    """Return a setting that is one of some values.

    Raises:
        ValueError: it is none of them; the message also names the usual one, if there is one.
    """
    if value not in choices:
        hint = "" if usual is None else f"; the usual one is {usual}"
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}{hint}")
    return value


def check_integer(name: str, value: Any, minimum: int, maximum: int | None = None, *, usual: int | None = None) -> int:
    """Return an integer setting.

    Raises:
        ValueError: it is no integer, or out of its bounds.
    """
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_integer or value < minimum or (maximum is not None and value > maximum):
        most = "" if maximum is None else f" and at most {maximum}"
        hint = "" if usual is None else f"; the usual value is {usual}"
        raise ValueError(f"{name} must be a whole number of at least {minimum}{most}, got {value!r}{hint}")
    return int(value)


def check_flag(name: str, value: Any) -> bool:
    """Return a setting that is True or False.

    Raises:
        ValueError: it is neither, such as "no", which Python takes for True.
    """
    if rule := _type_rule(bool, value):
        raise ValueError(f"{name} must be {rule}, got {value!r}{_way_out((bool,), value)}")
    return bool(value)


def describe_type(found: Any) -> str:
    """Return a wrong argument for a message: a text itself, a class by its name, of other objects the type."""
    if isinstance(found, type):
        return f"the class {found.__name__}, not an instance"
    return repr(found) if isinstance(found, str) else type(found).__name__


def _check_number(entry: Field[Any], number: Any, value: Any) -> None:
    rule = describe_bounds(entry.metadata)
    if isinstance(number, Integral) and abs(int(number)) > MAX_WHOLE:
        rule = f"{rule} and at most {MAX_WHOLE}".removeprefix(" and ")
    elif not isinstance(number, Integral) and not math.isfinite(number):
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


def check_weight(name: str | None, value: Any) -> float:
    """Return the weight of a reward as a float.

    Raises:
        ValueError: it is no number, not finite, or so large that training with it gives NaN.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not -MAX_COEFFICIENT <= value <= MAX_COEFFICIENT:  # False for NaN
        raise ValueError(
            f"the weight of reward {name!r} must be a number in [-{MAX_COEFFICIENT}, {MAX_COEFFICIENT}], got {value!r};"
            " 1 is usual"
        )
    return float(value)


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
