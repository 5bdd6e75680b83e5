"""Configs as frozen dataclasses whose fields carry their own help, and the checks that many of them share."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def config_field(default: Any, help: str) -> Any:
    """A config field with the one line of help that `tril-gym train ALGO --help` prints."""
    return field(default=default, metadata={"help": help})


def check_positive(config: Any, *names: str) -> None:
    """Refuse hyperparameters that are not above 0; None is left alone."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}{_usual(config, name)}")


def check_share(config: Any, *names: str) -> None:
    """Refuse hyperparameters that are not in [0, 1]; None is left alone."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must be in [0, 1], got {value}{_usual(config, name)}")


def check_not_negative(config: Any, *names: str) -> None:
    """Refuse hyperparameters under 0."""
    for name in names:
        value = getattr(config, name)
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}{_usual(config, name)}")


def _usual(config: Any, name: str) -> str:
    default = type(config).__dataclass_fields__[name].default
    return "" if default is None else f"; the usual value is {default}"
