"""Presets: settings of runs as YAML data, one file each.

help:        one line
run:         options of `tril-gym train`, by their long names with underscores
tiny:        size and warm-up of tiny policies and guides
algorithms:  hyperparameters by algorithm; beside them, under `run`, options of `tril-gym train` for this algorithm
envs:        the last three again by environment id, winning over the general ones
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Preset:
    """The settings that a preset has for one environment and algorithm."""

    name: str
    help: str
    run: dict[str, Any] = field(default_factory=dict)
    tiny: dict[str, Any] = field(default_factory=dict)
    hyperparameters: dict[str, Any] = field(default_factory=dict)


def names() -> list[str]:
    """All presets."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if entry.name.endswith(".yaml")
    )


def load(name: str, env: str | None = None, algorithm: str | None = None) -> Preset:
    """A preset: what it says of an algorithm over what it says of all, both first of all environments, then of this.

    Raises:
        ValueError: there is no preset of this name.
    """
    if name not in names():
        raise ValueError(f"unknown preset {name!r}; the presets are {', '.join(names())}")
    content = read(name)
    content = _over(content, content.get("envs", {}).get(env, {}))
    hyperparameters = dict(content.get("algorithms", {}).get(algorithm, {}))
    run = _over(content.get("run", {}), hyperparameters.pop("run", {}))
    return Preset(name, content["help"], run, content.get("tiny", {}), hyperparameters)


def read(name: str) -> dict[str, Any]:
    """The file of a preset as it is."""
    import yaml

    content: dict[str, Any] = yaml.safe_load((files(__name__) / f"{name}.yaml").read_text())
    return content


def _over(general: dict[str, Any], special: dict[str, Any]) -> dict[str, Any]:
    """Special settings over general ones, table by table."""
    merged = dict(general)
    for key, value in special.items():
        merged[key] = _over(merged.get(key, {}), value) if isinstance(value, dict) else value
    return merged
