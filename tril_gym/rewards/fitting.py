"""What rewards that fit something share: the examples they fit on, and fitting once per process.

Sixty-four environments with the same reward on the same data have one classifier between them. What was fitted is found
again by the content of its examples, not by who holds them.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, TypeVar, cast

T = TypeVar("T")


class ExampleLike(Protocol):
    """The fields of an example that rewards fit on; they are taken never to change."""

    @property
    def prompt(self) -> str:
        """The text to continue."""

    @property
    def references(self) -> Sequence[str]:
        """Human-written completions."""

    @property
    def label(self) -> int | None:
        """The example's class, where it has one."""


Train = Sequence[ExampleLike] | Callable[[], Sequence[ExampleLike]]


class Memory:
    """Keeps the last few results by key."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._results: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the result for `key`, making it where it is not remembered."""
        if key not in self._results:
            self._results[key] = make()
        self._results.move_to_end(key)
        if len(self._results) > self._size:
            self._results.popitem(last=False)
        return cast(T, self._results[key])


_fitted = Memory(size=8)
_fingerprints = Memory(size=4)


def fit_once(kind: str, train: Train, fit: Callable[[tuple[ExampleLike, ...], str], T]) -> T:
    """Return `fit(examples, fingerprint)`, calling it once per process for each kind and content."""
    examples = tuple(train() if callable(train) else train)
    fingerprint = fingerprint_of(examples)
    return _fitted.get((kind, fingerprint), lambda: fit(examples, fingerprint))


def cached(key: Hashable, make: Callable[[], T]) -> T:
    """Return `make()`, calling it once per process for each key while it is among the last few asked for."""
    return _fitted.get(key, make)


def fingerprint_of(examples: tuple[ExampleLike, ...]) -> str:
    """Return a hash of the content of the examples, in order."""
    # Hashing is slow for large data, so it is done once for the same objects. Remembering the examples
    # themselves along with the hash keeps them alive, and so their ids their own.
    identity = tuple(map(id, examples))
    return _fingerprints.get(identity, lambda: (_digest(examples), examples))[0]


def _digest(examples: tuple[ExampleLike, ...]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.prompt, list(example.references), example.label]).encode() + b"\n")
    return digest.hexdigest()
