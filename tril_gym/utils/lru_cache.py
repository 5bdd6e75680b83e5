"""A cache of the most recently used results, which can compute the missing ones of a batch in one call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRUCache(Generic[K, V]):
    """Keep the `size` most recently used results by key."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._results: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._results)

    def get(self, key: K, compute: Callable[[], V]) -> V:
        """Return the result for a key, computing it if it is missing."""
        return self.get_many([key], lambda _: [compute()])[0]

    def get_many(self, keys: Iterable[K], compute: Callable[[list[K]], Sequence[V]]) -> list[V]:
        """Return the results for keys, computing the missing ones, each once, in one call.

        Args:
            keys: any number of them, also more than the cache keeps.
            compute: returns one result for each of the keys that it gets; not called if none is missing.
        """
        keys = list(keys)
        missing = [key for key in dict.fromkeys(keys) if key not in self._results]
        if missing:
            self._results.update(zip(missing, compute(missing), strict=True))
        for key in keys:
            self._results.move_to_end(key)
        found = [self._results[key] for key in keys]
        while len(self._results) > self._size:
            self._results.popitem(last=False)
        return found
