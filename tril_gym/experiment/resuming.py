"""The settings of a resumed run: read from its folder, compared with what the user names, and what may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from tril_gym import __version__
from tril_gym.experiment.algorithms import agent_type
from tril_gym.experiment.config import RunConfig, merged_env_args
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.experiment.trust import masked, unmasked
from tril_gym.registration import check_reward_settings
from tril_gym.utils.attempts import SETTINGS as RETRY_SETTINGS
from tril_gym.utils.config_fields import flag_of
from tril_gym.utils.servers import ServerAddress, is_server_address
from tril_gym.utils.suggestions import with_suggestion
from tril_gym.utils.user_code import is_function_name

# settings that a resumed run may be given anew
SERVER_MAY_CHANGE = ("guide_concurrency", "guide_retries", "guide_timeout", "guide_cache")
MAY_CHANGE = ("iterations", "keep", "skip_nonfinite", *SERVER_MAY_CHANGE)


def saved_config(folder: RunFolder, given: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the settings of the run in a folder.

    Args:
        folder: the run folder.
        given: settings that the user names, which have the secrets that the folder does not hold.

    Raises:
        ValueError: the folder has no run of an agent, or one of another version, or a secret is missing.
    """
    settings = folder.read_config()
    if "algorithm" not in settings:
        raise ValueError(f"{folder.path} is no run of an agent: its config.yaml names no algorithm")
    own = dict(settings.get("hyperparameters") or {})
    _check_known(settings, RunConfig, folder)
    config = RunConfig(**unmasked(settings, given))
    if is_function_name(config.algorithm):  # code of one's own, which reading settings does not run
        return replace(config, hyperparameters=own)
    kind = agent_type(config.algorithm)
    _check_known(own, kind.config_type, folder)
    return replace(config, hyperparameters=asdict(kind.config_type(**own)))


def _check_known(settings: Mapping[str, Any], config_type: type, folder: RunFolder) -> None:
    known = {entry.name for entry in fields(config_type)}
    if unknown := sorted(settings.keys() - known):
        raise ValueError(
            f"{folder.path / 'config.yaml'} has the setting {with_suggestion(unknown[0], known)}, which tril-gym"
            f" {__version__} does not know;"
            " if you wrote it, remove it, else use the version that did"
        )


def check_unchanged(config: RunConfig, given: Mapping[str, Any], *, algorithm: str | None, folder: Path) -> None:
    """Check that the settings named for a resumed run are those that it has, apart from `MAY_CHANGE`.

    Args:
        config: the settings of the run.
        given: the settings that the user names; of `env_args`, those that are named.
        algorithm: the algorithm that the user names; None for none.
        folder: the run folder, for messages.

    Raises:
        ValueError: one differs, or the run is one of another algorithm.
    """
    if algorithm not in (None, config.algorithm):
        raise ValueError(f"{folder} is a run of {config.algorithm}, not of {algorithm}")
    saved = asdict(config) | config.hyperparameters
    for name, value in given.items():
        if name not in saved:
            raise ValueError(f"{config.algorithm} has no setting {with_suggestion(name, saved)}")
        if name == "guide" and is_moved_server(saved[name], value):
            continue
        if name not in MAY_CHANGE and not _agrees(saved[name], value, is_env=name == "env_args"):
            raise ValueError(
                f"a resumed run keeps its settings: {flag_of(name)} is {masked(saved[name], name=name)} in {folder},"
                f" got {masked(value, name=name)}; only {', '.join(map(flag_of, MAY_CHANGE))} may change"
            )


def check_total(config: RunConfig, done: int, *, folder: Path) -> None:
    """Check that the total number of iterations is not less than those that the run has.

    Raises:
        ValueError: it is less.
    """
    if config.iterations < done:
        raise ValueError(
            f"--iterations {config.iterations} is less than the {done} that {folder} has; it is the total number, so"
            f" {done} ends the run where it is"
        )


def is_moved_server(saved: str | None, given: str) -> bool:
    """Return whether two guides are the same model behind servers, at another address or the same."""
    if saved is None or not (is_server_address(saved) and is_server_address(given)):
        return False
    old, new = ServerAddress.parse(saved), ServerAddress.parse(given)
    return (old.model, old.is_chat) == (new.model, new.is_chat)


def _agrees(saved: Any, given: Any, *, is_env: bool) -> bool:
    """Return whether a setting is as it was; of `env_args` the part that is given, without how rewards are retried."""
    if is_env:
        others = {name: value for name, value in given.items() if name != "reward_settings"}
        settings = _reward_settings(given, of_retries=False)
        return _is_part(others, saved) and _is_part(settings, saved.get("reward_settings", {}))
    return bool(saved == (list(given) if isinstance(given, tuple) and isinstance(saved, list) else given))


def _is_part(given: Any, saved: Any) -> bool:
    """Return whether all that is given is saved, in mappings by name."""
    if isinstance(saved, Mapping) and isinstance(given, Mapping):
        return all(key in saved and _is_part(value, saved[key]) for key, value in given.items())
    return _agrees(saved, given, is_env=False)


def _reward_settings(env_args: Mapping[str, Any], *, of_retries: bool) -> dict[str, Any]:
    """Return the settings of the rewards in `env_args`: those by which they are called again, or all others."""
    parts = {
        reward: {key: value for key, value in own.items() if (key in RETRY_SETTINGS) == of_retries}
        for reward, own in check_reward_settings(env_args.get("reward_settings")).items()
    }
    return {reward: part for reward, part in parts.items() if part}


def with_changes(config: RunConfig, given: Mapping[str, Any]) -> RunConfig:
    """Return the same settings with those of `MAY_CHANGE` that are given, and how rewards are called again.

    Raises:
        ValueError: the learning-rate schedule is shorter than the iterations.
    """
    iterations = given.get("iterations", config.iterations)
    numbers = config.hyperparameters
    schedule, last = numbers["lr_schedule"], numbers["lr_iterations"]
    if iterations > config.iterations and schedule != "constant" and iterations > last:
        raise ValueError(
            f"--iterations {iterations} is more than the {last} after which the learning rate of this run is 0"
            " (lr_schedule); start a new run, for example with the policy of this one"
        )
    numbers = numbers | {name: given[name] for name in MAY_CHANGE if name in given and name in numbers}
    own = {name: given[name] for name in MAY_CHANGE if name in given and name not in numbers}
    own |= {"guide": given["guide"]} if "guide" in given else {}
    agent_type(config.algorithm).config_type(**numbers)  # checks the bounds
    if retries := _reward_settings(given.get("env_args", {}), of_retries=True):
        own["env_args"] = merged_env_args(config.env_args, {"reward_settings": retries})
    return replace(config, hyperparameters=numbers, **own)
