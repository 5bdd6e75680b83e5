"""Presets: settings of runs as YAML data, one file each.

help:        one line
run:         options of `tril-gym train`, by their long names with underscores
tiny:        size and warm-up of tiny policies and guides
algorithms:  knobs by algorithm
envs:        the same three again by environment id, winning over the general ones
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

SECTIONS = ("run", "tiny", "algorithms")


@dataclass(frozen=True)
class Preset:
    """The settings that a preset has for one environment."""

    name: str
    help: str
    run: dict[str, Any] = field(default_factory=dict)
    tiny: dict[str, Any] = field(default_factory=dict)
    algorithms: dict[str, dict[str, Any]] = field(default_factory=dict)


def names() -> list[str]:
    """All presets."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if entry.name.endswith(".yaml")
    )


def load(name: str, env: str | None = None) -> Preset:
    """A preset, with what it says of an environment laid over what it says of all.

    Raises:
        ValueError: there is no preset of this name.
    """
    import yaml

    if name not in names():
        raise ValueError(f"unknown preset {name!r}; the presets are {', '.join(names())}")
    content = yaml.safe_load((files(__name__) / f"{name}.yaml").read_text())
    own = content.get("envs", {}).get(env, {})
    return Preset(
        name,
        content["help"],
        **{section: _over(content.get(section, {}), own.get(section, {})) for section in SECTIONS},
    )


def _over(general: dict[str, Any], special: dict[str, Any]) -> dict[str, Any]:
    """Special settings over general ones, one level of tables deep."""
    merged = dict(general)
    for key, value in special.items():
        merged[key] = merged.get(key, {}) | value if isinstance(value, dict) else value
    return merged
