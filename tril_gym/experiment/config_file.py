"""Settings of a run in a YAML file, as `--config` reads them: a file of one's own, or the `config.yaml` of a run.

Names are those of the options, with underscores or dashes. Hyperparameters may stand beside the other settings or under
`hyperparameters`. A null is a value: it unsets what a preset sets.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from tril_gym import __version__
from tril_gym.experiment.algorithms import agent_type
from tril_gym.experiment.config import (
    RunConfig,
    env_args_for_env,
    env_args_for_reward,
    merged_env_args,
    without_lengths,
)
from tril_gym.experiment.resolution import configure_exactly
from tril_gym.experiment.run_folder import CHECKPOINTS, CONFIG, config_text
from tril_gym.experiment.trust import check_trusted, masked, unmasked
from tril_gym.utils.config_fields import flag_of
from tril_gym.utils.suggestions import path_with_suggestion, with_suggestion

# Options that say where a command writes and what it shows: no settings of a run.
NO_SETTINGS = (
    "config", "debug", "force_unlock", "log_json", "output_dir", "process_timeout", "profile", "project", "quiet",
    "resume", "run_name", "shard_models", "sharded_writing", "show_config", "tag", "track", "trust_code",
)  # fmt: skip
# Settings that follow others where they are not given; `config.yaml` has the value that they had.
DERIVED = (
    "preset", "threads", "dataset", "reward", "guide", "guide_temperature", "guide_top_p", "tiny_samples", "lora_alpha",
    "episodes_per_iteration", "critic", "critic_learning_rate", "aggrevated_rollin_prob", "lr_iterations",
    "rollin_iterations", "cut_iterations",
)  # fmt: skip
# What the lengths of an environment follow, where they are not given.
MEASURED = ("dataset", "policy", "tokenizer")
MEASURED_ARGS = ("column", "prompt_template", "chat_template", "system_prompt", "tokenizer")
BOOL, FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
WORDS = {"yes": True, "on": True, "no": False, "off": False}  # for settings that are true or false


class _Loader(yaml.SafeLoader):
    """YAML with the numbers and truth values of version 1.2 (1e-5 is one, no is a text); no name may occur twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012, of PyYAML
        first: [(tag, form) for tag, form in pairs if tag != BOOL]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys: list[Any] = []
        for key_node, _ in node.value:
            if (key := self.construct_object(key_node, deep=True)) in keys:
                raise yaml.constructor.ConstructorError(None, None, f"{key} occurs twice", key_node.start_mark)
            keys.append(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(BOOL, re.compile(r"true|True|TRUE|false|False|FALSE"), [*"tTfF"])
_Loader.add_implicit_resolver(FLOAT, re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), [*"-+.0123456789"])


def read_settings(path: str | Path) -> dict[str, Any]:
    """Return the settings in a YAML file by name, hyperparameters beside the others, without `version`.

    Raises:
        ValueError: the file cannot be read, is no table of settings, or another version of tril-gym wrote it.
    """
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError as error:
        raise ValueError(f"--config: there is no file {path_with_suggestion(str(path))}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"--config {path} cannot be read as YAML: {_in_one_line(error)}") from error
    content = {} if content is None else content
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"--config {path} must be lines such as `num_envs: 64`, got a {type(content).__name__}")
    version = str(content.pop("version", __version__))
    if version.split(".")[:2] != __version__.split(".")[:2]:
        raise ValueError(
            f"tril-gym {version} wrote {path}, and {__version__} may understand its settings differently; remove the"
            " line `version` to use them"
        )
    numbers = content.pop("hyperparameters", None) or {}
    if not isinstance(numbers, dict):
        raise ValueError(f"{path}: hyperparameters must be lines such as `learning_rate: 1e-5`, got {numbers!r}")
    return _by_name([*content.items(), *numbers.items()], path)


def _in_one_line(error: Exception) -> str:
    problem, mark = (vars(error).get(name) for name in ("problem", "problem_mark"))
    where = f"line {mark.line + 1}: " if mark is not None else ""
    return where + " ".join(str(problem or error).split())


def _by_name(settings: Iterable[tuple[str, Any]], path: str | Path) -> dict[str, Any]:
    """Return settings by their names in Python."""
    found: dict[str, Any] = {}
    for name, value in settings:
        plain = str(name).replace("-", "_")
        if plain in found:
            raise ValueError(f"{path} has the setting {plain} twice; leave one out")
        found[plain] = value
    return found


def configured(algorithm: str, path: str | Path, given: Mapping[str, Any], *, trust_code: bool = False) -> RunConfig:
    """Return the settings of a file, over which those that are given win.

    Where some are given, settings of the file that only followed others follow them again: with other `iterations`, a
    learning rate that decayed to the end of the run still does.

    Args:
        algorithm: as of `configure`.
        path: the file.
        given: settings by name; those of `env_args` are added to the file's.
        trust_code: also run code that only the `config.yaml` of a run folder names.

    Raises:
        ValueError: the file or a setting is wrong.
    """
    settings = settings_of_file(algorithm, path, given, trust_code=trust_code)
    own, new = settings.get("env_args") or {}, given.get("env_args") or {}
    env_args = env_args_for_env(own, settings.get("env"), given.get("env"))
    is_measured_again = any(given.get(name, settings.get(name)) != settings.get(name) for name in MEASURED)
    if is_measured_again or any(new.get(name, own.get(name)) != own.get(name) for name in MEASURED_ARGS):
        env_args = without_lengths(env_args)
    env_args = env_args_for_reward(env_args, given.get("reward"), new)
    env_args = merged_env_args(env_args, new)
    try:
        if given:
            settings = _without_implied(algorithm, settings)
        return configure_exactly(algorithm, settings | dict(given) | {"env_args": env_args})
    except ValueError as error:
        name = str(error).partition(" must be ")[0]
        raise ValueError(f"{path}: {error}" if name in settings and name not in given else str(error)) from error


def settings_of_file(algorithm: str, path: str | Path, given: Mapping[str, Any], *, trust_code: bool) -> dict[str, Any]:
    """Return the settings of a file for an algorithm, checked by name; see `configured`."""
    settings = read_settings(path)
    if (own := settings.pop("algorithm", algorithm)) != algorithm:
        raise ValueError(
            f"{path} is for {own}, not for {algorithm}; use `tril-gym train {own}`, or remove its line `algorithm`"
        )
    hints = _type_hints(algorithm)
    check_names(settings, hints, path, command=algorithm)
    settings |= {name: WORDS.get(str(value), value) for name, value in settings.items() if hints[name] is bool}
    settings |= {"reward": _as_weights(settings["reward"])} if "reward" in settings else {}
    settings = unmasked(settings, given)
    file = Path(path)
    if file.name == CONFIG and (file.parent / CHECKPOINTS).is_dir():  # of a run, maybe somebody else's
        check_trusted(settings, given, where=file, trust_code=trust_code)
    return settings


def _type_hints(algorithm: str) -> dict[str, Any]:
    """Return the types of all settings that a file may have, by name."""
    hints = get_type_hints(RunConfig) | get_type_hints(agent_type(algorithm).config_type)
    return {name: hint for name, hint in hints.items() if name not in ("algorithm", "hyperparameters")}


def check_names(settings: Mapping[str, Any], known: Collection[str], path: str | Path, *, command: str) -> None:
    """Check that a command has all settings of a file.

    Args:
        settings: those of the file.
        known: names of those that the command has.
        path: the file, for messages.
        command: of `tril-gym train`.

    Raises:
        ValueError: names one that it does not have, and a similar one.
    """
    for name in settings:
        if name in NO_SETTINGS:
            raise ValueError(f"{path}: {name} is no setting of a run; give {flag_of(name)} on the command line")
        if name not in known:
            raise ValueError(
                f"{path} has the setting {with_suggestion(name, known)}, which {command} does not have;"
                f" `tril-gym train {command} --help` lists all"
            )
    env_args = settings.get("env_args") or {}
    if not isinstance(env_args, dict) or not all(isinstance(name, str) for name in env_args):
        raise ValueError(f"{path}: env_args must be lines such as `max_new_tokens: 20`, got {env_args!r}")


def _as_weights(reward: Any) -> Any:
    """Return a reward's name, or a list of names, as weights by name."""
    names = [reward] if isinstance(reward, str) else reward
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return dict.fromkeys(names, 1.0) if is_list else reward


def _without_implied(algorithm: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without those of `DERIVED` that are the same where they are left out."""
    whole = configure_exactly(algorithm, settings)
    kept = settings
    for name in DERIVED:
        fewer = {other: value for other, value in kept.items() if other != name}
        if name in kept and configure_exactly(algorithm, fewer) == whole:
            kept = fewer
    return kept


def config_yaml(config: RunConfig) -> str:
    """Return all settings as YAML, secrets masked, as `config.yaml` of a run folder holds them."""
    return config_text(masked(asdict(config)))
