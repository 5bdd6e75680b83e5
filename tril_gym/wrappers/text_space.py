"""The space of all strings, also under `AsyncVectorEnv`, whose processes share the memory of observations."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Text
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory, write_to_shared_memory

MAX_CHARACTERS = 1_000_000
SHARED_BYTES = 1 << 16  # of one text in shared memory
LENGTH_BYTES = 4  # before them


class AnyText(Text):
    """The space of all strings; `Text` would need a list of all characters of Unicode."""

    def __init__(self) -> None:
        super().__init__(MAX_CHARACTERS, min_length=0)

    def contains(self, x: Any) -> bool:
        """Return whether x is a string."""
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Draw a short text of letters and digits."""
        return super().sample(mask or (int(self.np_random.integers(50)), None), probability)


class SharedTexts(Sequence[str]):
    """Texts of n processes in shared memory, read when they are asked for; a copy is a tuple of strings."""

    def __init__(self, memory: Any, n: int) -> None:
        self._rows = np.frombuffer(memory.get_obj(), np.uint8).reshape(n, LENGTH_BYTES + SHARED_BYTES)

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """Return a text, or a tuple of them for a slice."""
        if isinstance(index, slice):
            return tuple(self)[index]
        row = self._rows[index]
        length = int.from_bytes(row[:LENGTH_BYTES].tobytes(), "little")
        return row[LENGTH_BYTES : LENGTH_BYTES + length].tobytes().decode()

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)


# Gymnasium's functions for `Text` read the texts of all later steps once, when the environment is made.


@create_shared_memory.register(AnyText)
def _create(space: AnyText, n: int = 1, ctx: Any = multiprocessing) -> Any:
    return ctx.Array("B", n * (LENGTH_BYTES + SHARED_BYTES))


@read_from_shared_memory.register(AnyText)
def _read(space: AnyText, shared_memory: Any, n: int = 1) -> SharedTexts:
    return SharedTexts(shared_memory, n)


@write_to_shared_memory.register(AnyText)
def _write(space: AnyText, index: int, values: str, shared_memory: Any) -> None:
    encoded = values.encode()
    if len(encoded) > SHARED_BYTES:
        raise ValueError(
            f"a text of {len(encoded)} bytes does not fit the {SHARED_BYTES} of shared memory; make AsyncVectorEnv with"
            " shared_memory=False"
        )
    start = index * (LENGTH_BYTES + SHARED_BYTES)
    row = np.frombuffer(shared_memory.get_obj(), np.uint8)[start : start + LENGTH_BYTES + len(encoded)]
    row[:] = np.frombuffer(len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded, np.uint8)
