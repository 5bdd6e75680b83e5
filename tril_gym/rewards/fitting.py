"""Fit a reward once per process for each content of its train examples, however many environments use it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, TypeVar, cast

from tril_gym.utils.lru_cache import LRUCache

T = TypeVar("T")


class ExampleLike(Protocol):
    """The fields of an example that rewards fit on; they must not change."""

    @property
    def prompt(self) -> str:
        """The text to continue."""

    @property
    def references(self) -> Sequence[str]:
        """Human-written completions."""

    @property
    def label(self) -> int | None:
        """The example's class, if it has one."""


Train = Sequence[ExampleLike] | Callable[[], Sequence[ExampleLike]]
Fields = Callable[[Any], list[Any]]  # of an example: what a reward is fitted to, as JSON can write it

_results = LRUCache[Hashable, Any](size=8)
_fingerprints = LRUCache[Hashable, tuple[str, Any]](size=4)


def fields_of(example: ExampleLike) -> list[Any]:
    """Return what most rewards are fitted to."""
    return [example.prompt, list(example.references), example.label]


def fit_once(
    kind: str, train: Train, fit: Callable[[tuple[ExampleLike, ...], str], T], *, fields: Fields = fields_of
) -> T:
    """Return `fit(examples, fingerprint)`, called once per process for each kind and content of the examples."""
    examples = tuple(train() if callable(train) else train)
    fingerprint = fingerprint_of(examples, fields)
    return cached((kind, fingerprint), lambda: fit(examples, fingerprint))


def cached(key: Hashable, compute: Callable[[], T]) -> T:
    """Return the process's result for a key, computing it unless it is among the last few that were used."""
    return cast(T, _results.get(key, compute))


def fingerprint_of(examples: tuple[ExampleLike, ...], fields: Fields = fields_of) -> str:
    """Return a hash of the content of the examples, in order."""
    # Hashing large data is slow, so it is done once for the same objects. The cache holds the examples too: while
    # they live, no other objects can have their ids.
    identity = (fields, *map(id, examples))
    return _fingerprints.get(identity, lambda: (_digest(examples, fields), examples))[0]


def _digest(examples: tuple[ExampleLike, ...], fields: Fields) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(fields(example)).encode() + b"\n")
    return digest.hexdigest()
