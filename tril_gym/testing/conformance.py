"""What all checks share: the error that names a broken rule, and blocks that must leave things as they are."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tril_gym.testing.comparison import difference


class ConformanceError(AssertionError):
    """An object breaks a rule of its contract. The message has the rule and the values that break it."""


def require(holds: bool, rule: str, found: str) -> None:
    """Raise ConformanceError unless a rule holds.

    Args:
        holds: whether it does.
        rule: what must be, such as "a reward is a finite number".
        found: the values that were found.
    """
    if not holds:
        raise ConformanceError(f"broken rule: {rule}; found: {found}")


def require_same(one: Any, other: Any, rule: str, *, tolerance: float = 0.0) -> None:
    """Raise ConformanceError, with the first difference, unless two values are equal in every part."""
    found = difference(one, other, tolerance=tolerance)
    require(found is None, rule, str(found))


@contextmanager
def unchanged(rule: str, value: Any) -> Iterator[None]:
    """Raise ConformanceError if a value, such as a dictionary or an array, is changed within the block."""
    before = copy.deepcopy(value)
    yield
    require_same(before, value, rule)


@contextmanager
def no_global_randomness(subject: str) -> Iterator[None]:
    """Raise ConformanceError if a global random generator is used or seeded within the block."""
    generators = _global_generators()
    kept = {name: generator.state() for name, generator in generators.items()}
    try:
        for generator in generators.values():
            generator.draw()  # so that a seed that was set before is noticed when it is set again
        before = {name: generator.state() for name, generator in generators.items()}
        yield
        used = [name for name in before if difference(before[name], generators[name].state()) is not None]
        require(not used, f"{subject} uses no global random generator", f"it uses that of {' and '.join(used)}")
    finally:
        for name, generator in generators.items():
            generator.restore(kept[name])


@contextmanager
def as_broken(rule: str) -> Iterator[None]:
    """Raise ConformanceError for every exception within the block."""
    try:
        yield
    except ConformanceError:
        raise
    except Exception as error:
        raise ConformanceError(f"broken rule: {rule}; found: {type(error).__name__}: {error}") from error


def refuses(call: Callable[[], Any], rule: str) -> None:
    """Raise ConformanceError unless a call raises ValueError."""
    try:
        call()
    except ValueError:
        return
    except Exception as error:
        raise ConformanceError(f"broken rule: {rule}; found: {type(error).__name__}: {error}") from error
    raise ConformanceError(f"broken rule: {rule}; found: no error")


@dataclass(frozen=True)
class _Generator:
    """Ways to read, use and restore a global random generator."""

    state: Callable[[], Any]
    draw: Callable[[], Any]
    restore: Callable[[Any], Any]


def _global_generators() -> dict[str, _Generator]:
    """Return the global generators by library; torch's if it is imported."""
    found = {
        "random": _Generator(random.getstate, random.random, random.setstate),
        "numpy.random": _Generator(np.random.get_state, np.random.random, np.random.set_state),
    }
    if (torch := sys.modules.get("torch")) is not None:
        found["torch"] = _Generator(
            lambda: torch.get_rng_state().numpy(),
            lambda: torch.rand(1),
            lambda state: torch.set_rng_state(torch.from_numpy(state)),
        )
    return found
