"""Presets: settings of runs as YAML data, one file each.

help:        one line
run:         fields of `RunConfig`
tiny:        size and pretraining of tiny policies and guides
guide:       what differs from `tiny` for tiny guides
algorithms:  hyperparameters by algorithm; beside them, under `run`, `tiny` and `guide`, what differs for this algorithm
envs:        all of these again by environment id; they win over the general ones
policies:    the same by policy, such as "tiny-seq2seq"; they win over all others
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from tril_gym.registration import without_module
from tril_gym.utils.suggestions import with_suggestion


@dataclass(frozen=True)
class Preset:
    """Settings of a preset for one environment, algorithm and policy."""

    name: str
    help: str
    run: dict[str, Any] = field(default_factory=dict)
    tiny: dict[str, Any] = field(default_factory=dict)
    guide: dict[str, Any] = field(default_factory=dict)
    hyperparameters: dict[str, Any] = field(default_factory=dict)


def names() -> list[str]:
    """Return the names of all presets."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if entry.name.endswith(".yaml")
    )


def load(name: str, env: str | None = None, algorithm: str | None = None, policy: str | None = None) -> Preset:
    """Return a preset for an environment, an algorithm and a policy: specific settings win over general ones.

    Raises:
        ValueError: no preset has this name.
    """
    if name not in names():
        raise ValueError(f"unknown preset {with_suggestion(name, names())}; the presets are {', '.join(names())}")
    content = read(name)
    env_id = None if env is None else without_module(env)
    content = _over(content, content.get("envs", {}).get(env_id, {}))
    content = _over(content, content.get("policies", {}).get(policy, {}))
    hyperparameters = dict(content.get("algorithms", {}).get(algorithm, {}))
    parts = {part: _over(content.get(part, {}), hyperparameters.pop(part, {})) for part in ("run", "tiny", "guide")}
    return Preset(name, content["help"], **parts, hyperparameters=hyperparameters)


def read(name: str) -> dict[str, Any]:
    """Return the content of a preset's file, which is read once."""
    return copy.deepcopy(_parsed(name))


@functools.cache
def _parsed(name: str) -> dict[str, Any]:
    import yaml

    content: dict[str, Any] = yaml.safe_load((files(__name__) / f"{name}.yaml").read_text())
    return content


def _over(general: dict[str, Any], special: dict[str, Any]) -> dict[str, Any]:
    """Return general settings updated with special ones, table by table."""
    merged = dict(general)
    for key, value in special.items():
        merged[key] = _over(merged.get(key, {}), value) if isinstance(value, dict) else value
    return merged
