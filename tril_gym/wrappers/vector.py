"""What our vector wrappers have that Gymnasium's do not: the autoreset mode, and the rows' own attributes."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import AutoresetMode, VectorWrapper


class TextVectorWrapper(VectorWrapper[Any, Any, Any, Any, Any]):
    """A vector wrapper that passes on what a text environment offers."""

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """When rows that have ended begin anew."""
        mode: AutoresetMode = self.metadata["autoreset_mode"]
        return mode

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every row, as `SyncVectorEnv.call`."""
        results: tuple[Any, ...] = self.unwrapped.call(name, *args, **kwargs)  # type: ignore[attr-defined]
        return results

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute of every row, as `SyncVectorEnv.get_attr`."""
        return self.call(name)
