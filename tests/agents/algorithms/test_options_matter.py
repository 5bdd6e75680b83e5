"""Each option of each algorithm changes what a training does, or is refused: one that is ignored is a silent error.

Agents train for three iterations on the toy environment, again with another value of one option after the other.
"""

import dataclasses
import json
import types
import typing

import pytest
import torch
from doubles import toy_envs, toy_policy
from test_family import parts_of

from tril_gym.agents.learners.phasic import Phasic
from tril_gym.experiment.algorithms import ALGORITHMS, agent_type

NUMBERS = {
    **{"episodes_per_iteration": 24, "minibatch_size": 8, "epochs": 2, "texts_per_prompt": 4, "learning_rate": 1e-2},
    **{"temperature": 3.0, "rollin_prob": 0.6, "check_model": False},
    **{"auxiliary_every": 2, "auxiliary_epochs": 2, "aggrevated_iterations": 1, "ppo_pp_prob": 0.1},
    **{"hand_over_every": 1, "hand_over_texts": 8},
}
OTHER = {  # values that matter in three iterations, and that others allow
    **{"episodes_per_iteration": 16, "minibatch_size": 4, "texts_per_prompt": 2, "lr_schedule": "linear"},
    **{"kl_controller": "adaptive", "kl_target": 100.0, "target_kl": 1e-4, "value_clip_range": 1e-4},
    **{"adam_betas": (0.5, 0.9), "max_grad_norm": 1e-4, "critic": "shared", "lr_iterations": 3},
    **{"policy_loss": "awr", "hand_over_margin": -9.0, "ppo_pp_prob": 0.9, "accepted_texts": 2},
}
NEEDED = {  # what another value needs beside it
    "lr_schedule": {"lr_iterations": 5},
    "kl_controller": {"kl_target": 1e-3, "kl_coef": 0.1},
    "kl_in": {"kl_coef": 0.1},
    "kl_estimator": {"kl_coef": 0.1},
    "label_smoothing": {"loss": "dpo"},
    "hand_over": {"aggrevated_iterations": 3},
    "final_rollin_prob": {"rollin_iterations": 2},
    "cut": {"cut_iterations": 2},
    "apa_anchor": {"kl_coef": 0.0},
}
WITHOUT = {  # options that change nothing here
    "gradient_checkpointing": "memory alone",
    "check_model": "a check",
    "compile": "speed alone",
    "mixed_precision": "the weights are float64",
    "skip_nonfinite": "all is finite",
    "sampling_correction": "no server writes the texts",
    "sampling_cap": "no server writes the texts",
    "drop_groups": "no group is tied",
    "group_by_length": "a minibatch may hold all texts",
    "joint_grad_norm": "no norm is above the limit",
    "discriminator": "the name of a model",
}


def other_value(entry: dataclasses.Field, hint: typing.Any, value: typing.Any) -> typing.Any:
    """Return another value of an option."""
    if entry.name in OTHER and OTHER[entry.name] != value:
        return OTHER[entry.name]
    unions = (types.UnionType, typing.Union)
    kinds = typing.get_args(hint) if typing.get_origin(hint) in unions else (hint,)
    kind = next(kind for kind in kinds if kind is not types.NoneType)
    if typing.get_origin(kind) is typing.Literal:
        return next(choice for choice in typing.get_args(kind) if choice != value)
    if kind is bool:
        return not value
    lowest = next((bound for key in ("minimum", "above") if (bound := entry.metadata.get(key)) is not None), 0)
    if kind is int:
        return max(lowest, 0) + 1 if value is None else value + 1
    return value / 2 if value else 0.3


def entries_of(config_type: type) -> dict[str, dataclasses.Field]:
    return {entry.name: entry for entry in dataclasses.fields(config_type)}


def settings_for(config_type: type, name: str) -> dict[str, typing.Any]:
    """Return settings with which an option is read."""
    entries, hints = entries_of(config_type), typing.get_type_hints(config_type)
    settings = {key: value for key, value in NUMBERS.items() if key in entries}
    other, *needed = entries[name].metadata.get("only_with") or (None,)
    if other in entries:
        settings = settings_for(config_type, other)
        now = settings.get(other, entries[other].default)
        if needed and now not in needed:
            settings[other] = OTHER[other] if OTHER.get(other) in needed else needed[0]
        elif not needed and now == entries[other].default:
            settings[other] = other_value(entries[other], hints[other], now)
        settings |= NEEDED.get(other, {})
    return settings | {key: value for key, value in NEEDED.get(name, {}).items() if key in entries}


def trained(name: str, settings: dict[str, typing.Any]) -> tuple[torch.Tensor, str]:
    """Train; return the policy's weights, and texts and metrics as JSON."""
    kind, envs, texts = agent_type(name), toy_envs(6), []
    policy, config = toy_policy(dtype=torch.float64), kind.config_type(**settings)
    agent = kind(policy=policy, envs=envs, config=config, seed=3, **parts_of(name, envs))
    rows = agent.learn(3, callbacks=[lambda report: texts.append(report.trajectories.tokens.tolist())], progress=False)
    metrics = [{key: value for key, value in row.items() if "time/" not in key and "second" not in key} for row in rows]
    return torch.cat([weight.detach().flatten() for weight in policy.parameters()]), json.dumps([texts, metrics])


def without_effect(name: str, options: typing.Iterable[str] | None = None) -> set[str]:
    """Return the options of an algorithm of which another value changes neither weights, texts nor metrics."""
    config_type, known, found = agent_type(name).config_type, {}, set()
    entries, hints = entries_of(config_type), typing.get_type_hints(config_type)
    for option in entries.keys() - WITHOUT.keys() if options is None else options:
        settings = settings_for(config_type, option)
        other = other_value(entries[option], hints[option], settings.get(option, entries[option].default))
        if (key := json.dumps(settings, sort_keys=True)) not in known:
            known[key] = trained(name, settings)
        try:
            weights, told = trained(name, settings | {option: other})
        except ValueError:
            continue  # refused, with a message
        if torch.equal(weights, known[key][0]) and told == known[key][1]:
            found.add(option)
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:top_k")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_option_changes_something(name):
    assert without_effect(name) == set()


def test_a_learner_that_ignores_an_option_is_found(monkeypatch):
    assert without_effect("ppg", ["baseline"]) == set()
    monkeypatch.setattr(Phasic, "baseline_texts", agent_type("bc").learner_type.baseline_texts)
    assert without_effect("ppg", ["baseline"]) == {"baseline"}
