"""How the settings of a run are found: options given win over the preset, the preset over the defaults."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from tril_gym.experiment import presets
from tril_gym.experiment.algorithms import agent_type, algorithm_spec, extended_algorithm
from tril_gym.experiment.config import (
    GUIDE_OPTIONS,
    LOADING_OPTIONS,
    TINY,
    RunConfig,
    env_args_for_reward,
    merged_env_args,
)
from tril_gym.utils.config_fields import flag_of, is_read, unread_fields
from tril_gym.utils.servers import ServerConfig, is_server_address
from tril_gym.utils.suggestions import with_suggestion
from tril_gym.utils.user_code import check_not_file_alone, is_function_name

if TYPE_CHECKING:
    from tril_gym.agents.algorithms.agent import Agent
    from tril_gym.experiment.presets import Preset

OWN_DATA = "tril/Text-v0"  # environment of a file of pairs
OF_THE_RUN = ("lr_iterations", "cut_iterations", "rollin_iterations")  # by default its number of iterations


def configure(algorithm: str, *, preset: str | None = None, **settings: Any) -> RunConfig:
    """Return the settings of a run.

    Args:
        algorithm: a name of `ALGORITHMS`, or FILE.py:Class or module:Class of your own.
        preset: the name of a preset; None chooses by the policy.
        settings: fields of `RunConfig` and of the algorithm's config. They win over the preset; None counts as not
            given.

    Raises:
        ValueError: an unknown name, or a value out of its bounds.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    return configure_exactly(algorithm, given | ({} if preset is None else {"preset": preset}))


def configure_exactly(algorithm: str, settings: Mapping[str, Any]) -> RunConfig:
    """Return the settings of a run as `configure` does, but a None among those given is a value, too."""
    kind = agent_type(algorithm)
    given = {name: _as_plain(value) for name, value in settings.items()}
    for name in ("preset", "env", "policy"):  # which choose other settings, before all are checked
        if not isinstance(given.get(name), str | None):
            raise ValueError(f"{name} must be a text that is not empty, got {given[name]!r}")
    if not isinstance(given.get("env_args"), Mapping | None):
        raise ValueError(
            f"env_args must be values by name, such as {{'max_new_tokens': 20}}, got {given['env_args']!r}"
        )
    preset = given.pop("preset", None)
    numbers = {entry.name: given.pop(entry.name) for entry in fields(kind.config_type) if entry.name in given}
    known = {entry.name for entry in fields(RunConfig)} - {"algorithm", "hyperparameters"}
    if unknown := sorted(set(given) - known):
        every = known | {entry.name for entry in fields(kind.config_type)}
        name = with_suggestion(unknown[0], every)
        raise ValueError(f"{algorithm} has no setting {name}; `tril-gym train {algorithm} --help` lists its settings")
    if (own := algorithm_spec(algorithm).env) is not None:
        given = {"env": OWN_DATA if _is_own_file(given.get("dataset")) else own} | given
    env, policy = given.get("env", RunConfig.env), given.get("policy", RunConfig.policy)
    usual_preset = _preset_for(policy)
    known_as = extended_algorithm(algorithm)
    chosen = presets.load(usual_preset if preset is None else preset, env, known_as, policy)
    _check_preset(chosen, env, known_as, needs_algorithm=chosen.name != usual_preset)
    run = _override_preset(chosen.run, given | {"env_args": given.get("env_args") or {}}, takes_guide=kind.takes_guide)
    usual = {entry.name: entry.default for entry in fields(kind.config_type)}
    inherited = {name: value for name, value in chosen.hyperparameters.items() if name in usual}
    asked, numbers = numbers, inherited | numbers
    for entry in fields(kind.config_type):
        if entry.name in OF_THE_RUN and is_read(entry, usual | numbers, usual):
            numbers = {entry.name: run["iterations"]} | numbers
    config = resolve(RunConfig(algorithm=algorithm, preset=chosen.name, hyperparameters=numbers, **run))
    _check_read(kind, asked, config.hyperparameters)
    pretrains = config.tiny_samples and {config.policy, config.guide} & TINY.keys()
    if config.pretrain_seconds is not None and not pretrains:
        raise ValueError(
            f"--pretrain-seconds {config.pretrain_seconds:g} has no effect here: no tiny model is pretrained; leave it"
            " out"
        )
    return config


def _check_preset(chosen: Preset, env: str, algorithm: str, *, needs_algorithm: bool) -> None:
    """Check that a preset has settings for an environment and for an algorithm.

    The preset of runs that name none may lack a new algorithm, which then has the defaults of its config.
    """
    content = presets.read(chosen.name)
    if "iterations" not in chosen.run:  # nothing but what its environments share
        raise ValueError(
            f"the preset {chosen.name} has settings for {', '.join(content['envs'])} only, got --env {env}"
        )
    algorithms = content.get("algorithms")
    if needs_algorithm and algorithms is not None and algorithm not in algorithms:
        raise ValueError(
            f"the preset {chosen.name} has settings for {', '.join(algorithms)} only, got {algorithm}; without it,"
            " --policy and --dataset choose model and data"
        )


def _check_read(kind: type[Agent], given: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
    """Check that hyperparameters which are given have an effect, or are the default."""
    for name, why in unread_fields(kind.config_type, numbers, flag_of).items():
        if name in given:
            raise ValueError(f"{flag_of(name)} {given[name]} has no effect here: {why}")


def _is_own_file(dataset: str | None) -> bool:
    """Return whether a data set is a file or a folder."""
    return dataset not in (None, "embedded", "hub") and not str(dataset).startswith("hub:")


def _preset_for(policy: str) -> str:
    """Return the preset of runs with this policy that name none."""
    return "embedded" if policy in TINY else "pretrained"


def _as_plain(value: Any) -> Any:
    """Return a setting in the form in which `config.yaml` holds it: paths are texts."""
    return str(value) if isinstance(value, PurePath) else value


def _override_preset(preset: dict[str, Any], given: dict[str, Any], *, takes_guide: bool) -> dict[str, Any]:
    """Return the preset updated with what is given, without settings of the preset that then do not apply."""
    dropped: set[str] = set()
    if given.get("policy", preset.get("policy")) != preset.get("policy"):  # tokenizer and guide fit the preset's policy
        dropped |= {"tokenizer", *GUIDE_OPTIONS}
    if not takes_guide or given.get("guide", preset.get("guide")) != preset.get("guide"):
        dropped |= {*GUIDE_OPTIONS}
    if given.get("policy") in TINY:
        dropped |= {"load_in_4bit", "load_in_8bit", *LOADING_OPTIONS}
    if "reward" in given["env_args"]:
        dropped.add("reward")
    if given.get("lora_rank") == 0:
        dropped |= {"lora_alpha", "lora_targets", "load_in_4bit", "load_in_8bit"}
    kept = {name: value for name, value in preset.items() if name not in dropped}
    env_args = env_args_for_reward(kept.get("env_args", {}), given.get("reward"), given["env_args"])
    return kept | given | {"env_args": merged_env_args(env_args, given["env_args"])}


def preset_reward(config: RunConfig) -> dict[str, float] | None:
    """Return the reward that the preset of a run has for its environment; None where it has none."""
    if config.preset not in presets.names():  # of a file of another version
        return None
    found: dict[str, float] | None = presets.load(config.preset, config.env, policy=config.policy).run.get("reward")
    return found


def resolve(config: RunConfig) -> RunConfig:
    """Return the settings with each None replaced by the value that it stands for, where that is known beforehand.

    Resolving twice changes nothing.
    """
    import torch

    kind = agent_type(config.algorithm)
    found: dict[str, Any] = {"threads": config.cpu_threads or torch.get_num_threads()}
    if config.lora_rank and config.lora_alpha is None:
        found["lora_alpha"] = 2.0 * config.lora_rank
    if kind.takes_guide:
        found |= _guide_settings(config)
    if {config.policy, found.get("guide", config.guide)} & TINY.keys():
        found["tiny_samples"] = tiny_settings(config)["samples"]
    found |= _env_settings(config)
    if (critic := _critic_of(config)) is not None:
        config = replace(config, hyperparameters=config.hyperparameters | {"critic": critic})
    with warnings.catch_warnings():  # a config that warns does so when the agent is built
        warnings.simplefilter("ignore", UserWarning)
        numbers = asdict(kind.config_type(**config.hyperparameters))
    return replace(config, hyperparameters=_resolved(numbers, config.num_envs), **found)


def _resolved(numbers: dict[str, Any], num_envs: int) -> dict[str, Any]:
    """Return hyperparameters in which one that is None has the value of another that it follows."""
    found = {"episodes_per_iteration": numbers["episodes_per_iteration"] or num_envs}
    if "critic_learning_rate" in numbers:
        found["critic_learning_rate"] = numbers["critic_learning_rate"] or numbers["learning_rate"]
    # With a schedule of rollin_prob, iterations of AggreVaTeD follow it.
    is_constant = numbers.get("final_rollin_prob") is None
    if numbers.get("aggrevated_rollin_prob", 0.0) is None and is_constant:
        found["aggrevated_rollin_prob"] = numbers["rollin_prob"]
    return numbers | found


def _critic_of(config: RunConfig) -> str | None:
    """Return the kind of critic that the policy has by default, None where that is chosen or not known yet."""
    has_critic = agent_type(config.algorithm).config_type.has_critic
    if not has_critic or config.hyperparameters.get("critic") is not None:
        return None
    return "adapter" if config.lora_rank else "separate" if config.policy in TINY else None


def _guide_settings(config: RunConfig) -> dict[str, Any]:
    from tril_gym.agents.tiny import GUIDE_TEMPERATURE, GUIDE_TOP_P

    own = algorithm_spec(config.algorithm).guide or (config.policy if config.policy in TINY else None)
    guide = own if config.guide is None else config.guide
    if guide is None or guide in ("references", "successes") or is_function_name(guide):
        return {"guide": guide}
    check_not_file_alone(guide, option=f"--guide {guide}")
    defaults: dict[str, Any] = {
        "guide_temperature": GUIDE_TEMPERATURE if guide in TINY else 1.0,
        "guide_top_p": GUIDE_TOP_P,
    }
    if is_server_address(guide):
        asked = ServerConfig()
        defaults |= {"guide_concurrency": asked.concurrency, "guide_retries": asked.retries}
        defaults |= {"guide_timeout": asked.timeout}
    given = {name: getattr(config, name) for name in defaults if getattr(config, name) is not None}
    return {"guide": guide} | defaults | given


def tiny_settings(config: RunConfig, *, of_guide: bool = False) -> dict[str, Any]:
    """Return the size and pretraining of a tiny policy or guide: fields of `TinySettings`, `samples` among them."""
    from tril_gym.agents.tiny import TinySettings

    preset = presets.load(config.preset, config.env, extended_algorithm(config.algorithm), config.policy)
    settings = preset.tiny | (preset.guide if of_guide else {})
    if config.tiny_samples is not None:
        settings = settings | {"samples": config.tiny_samples}
    if config.pretrain_seconds is not None:
        settings = settings | {"seconds": config.pretrain_seconds}
    return {"samples": TinySettings(**settings).samples} | settings


def _env_settings(config: RunConfig) -> dict[str, Any]:
    """Return the data set and reward of an environment of ours; others have their own."""
    from tril_gym.experiment.environments import default_reward
    from tril_gym.registration import accepts_dataset

    found: dict[str, Any] = {}
    if accepts_dataset(config.env) and config.dataset is None:
        found["dataset"] = "embedded"
    if config.reward is None and "reward" not in config.env_args:
        found["reward"] = default_reward(config.env)
    return found
