"""An environment's specification refers to big objects, so that Gymnasium's deep copies of it do not copy them."""

from __future__ import annotations

from enum import Enum
from typing import Any

from gymnasium.envs.registration import EnvSpec

from tril_gym.sharing import share


class SharedSpec:
    """Mixed into an environment: the keywords of its `spec` are plain data, or `Shared` where they are objects."""

    _spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """What `gym.make` made this environment from."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None:
            spec.kwargs = {key: keyword(value) for key, value in spec.kwargs.items()}
        self._spec = spec


def keyword(value: Any) -> Any:
    """Return a keyword in the form in which a specification keeps it."""
    return value.value if isinstance(value, Enum) else share(value)
