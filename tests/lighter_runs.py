"""What tests of runs and agents do not repeat: the check of a model like one checked before, and a run's picture.

Almost every test of an agent builds a small model, and checking how it reads costs more than many of the tests. What
the check finds depends on the architecture, the precision and the layout, not on the weights, unless one is not finite.
Drawing `curve.png` takes a quarter of a small run. Tests of either have the marker `whole_runs`, and leave nothing out.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

EMPTY_PNG = b"\x89PNG\r\n\x1a\n"
modes: dict[tuple[Any, ...], Any] = {}  # the mode of reading of each model that was right


def lighten(whole: bool) -> None:
    """Replace both parts where their modules are loaded, or put them back."""
    if (policies := sys.modules.get("tril_gym.agents.actors.policy")) is not None:
        check: Any = sys.modules["tril_gym.agents.actors.model_check"].check_model
        policies.check_model = check if whole else once_per_architecture(check)  # type: ignore[attr-defined]
    if (runs := sys.modules.get("tril_gym.experiment.run")) is not None:
        draw: Any = sys.modules["tril_gym.experiment.plots"].draw_curve
        runs.draw_curve = draw if whole else write_empty_png  # type: ignore[attr-defined]


def write_empty_png(path: Path, **data: Any) -> None:
    """Write the first bytes of a PNG."""
    path.write_bytes(EMPTY_PNG)


def once_per_architecture(check: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `check_model` that lets a model be read as the first one of its kind was."""
    import torch

    @functools.wraps(check)
    def shared(language_model: Any, layout: Any, *, values: bool = False) -> Any:
        if not all(bool(torch.isfinite(weight).all()) for weight in language_model.model.state_dict().values()):
            return check(language_model, layout, values=values)
        key = (*_kind(language_model), layout.max_prompt_length, layout.max_new_tokens, values)
        if key in modes:
            return language_model.read_as(modes[key])
        report = check(language_model, layout, values=values)
        modes[key] = language_model.backbone.mode
        return report

    return shared


def _kind(language_model: Any) -> tuple[Any, ...]:
    """Return what tells models apart that may be read differently."""
    model = language_model.model
    settings = {name: str(value) for name, value in vars(model.config).items() if name != "_name_or_path"}
    weights = tuple((name, weight.dtype, weight.shape) for name, weight in model.state_dict().items())
    return type(model), tuple(sorted(settings.items())), weights, language_model.backbone.mode
