"""The policy and the guide of a run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.vector import VectorEnv

from tril_gym.experiment.algorithms import agent_type
from tril_gym.experiment.config import LOADING_OPTIONS, MODEL_OPTIONS, TINY, RunConfig
from tril_gym.experiment.resolution import tiny_settings
from tril_gym.utils.config_fields import flag_of
from tril_gym.utils.servers import is_server_address
from tril_gym.utils.user_code import is_function_name, resolve_function
from tril_gym.wrappers.vector import base_attribute

if TYPE_CHECKING:
    from tril_gym.agents.actors.policy import LMPolicy
    from tril_gym.agents.collection.actor import Actor

logger = logging.getLogger(__name__)


def checkpoint_policy(config: RunConfig, checkpoint: Path) -> LMPolicy:
    """Return the policy of a checkpoint."""
    from tril_gym.agents.actors.policy import LMPolicy

    trust = {"trust_remote_code": True} if config.trust_remote_code else {}
    return LMPolicy.from_pretrained(checkpoint / "policy", **trust)


def pretrained_policy(config: RunConfig, *, trains: bool = True) -> LMPolicy | None:
    """Return a policy by name or folder; None for tiny ones, which need an environment first.

    Args:
        config: the settings of a run.
        trains: whether the policy will be trained, and must fit into memory with all that this needs.

    Raises:
        ValueError: there is no such model, or it cannot be trained in the free memory.
    """
    if config.policy in TINY:
        return None
    from tril_gym.agents.actors.policy import LMPolicy
    from tril_gym.utils.tokenization import load_tokenizer

    settings = _loading_settings(config)
    if trains and not config.lora_rank:
        _check_memory(config, settings)
    policy = LMPolicy.from_pretrained(config.policy, with_tokenizer=config.tokenizer is None, **settings)
    if "device_map" not in settings:
        policy.to(config.device)
    if config.tokenizer is not None:
        policy.language_model.tokenizer = load_tokenizer(config.tokenizer)
    return policy


def _loading_settings(config: RunConfig) -> dict[str, Any]:
    """Return the keywords by which the policy is loaded."""
    import torch

    chosen = {name: getattr(config, name) for name in LOADING_OPTIONS}
    settings = {name: value for name, value in chosen.items() if value}
    if config.dtype is not None:
        settings["dtype"] = getattr(torch, config.dtype)
    if config.load_in_4bit or config.load_in_8bit:  # quantised on the device that it is used on
        bits = {"load_in_4bit": config.load_in_4bit, "load_in_8bit": config.load_in_8bit}
        settings = bits | {"device_map": {"": config.device}} | settings
    return settings


def _check_memory(config: RunConfig, settings: dict[str, Any]) -> None:
    """Raise `ValueError` if all weights of a model cannot be trained in the free memory of the device."""
    import torch

    from tril_gym.models.memory import FROZEN, TRAINED, check_memory, count_weights, free_memory
    from tril_gym.models.pretrained import is_adapter, model_folder, model_kind

    if is_adapter(source := model_folder(config.policy)):
        return
    try:
        weights = count_weights(*model_kind(source, settings))
    except Exception:  # an estimate must not stop a model that can be loaded; if it cannot, loading says why
        return
    copies = TRAINED
    if agent_type(config.algorithm).config_type.has_critic:
        copies += FROZEN * (2 if config.hyperparameters.get("overlap") else 1)
        copies += 0 if config.hyperparameters.get("critic") == "shared" else TRAINED
    free = free_memory(torch.device(config.device))
    check_memory(config.policy, weights, settings.get("dtype", torch.float32), copies, free)


def policy_for_envs(config: RunConfig, envs: VectorEnv) -> LMPolicy:
    """Return a tiny policy for an environment."""
    from tril_gym.agents.tiny import tiny_policy

    policy = tiny_policy(envs, kind=TINY[config.policy], device=config.device, **tiny_settings(config))
    return _as_chosen(config, policy)


def _as_chosen(config: RunConfig, tiny: LMPolicy) -> LMPolicy:
    """Return a tiny model in the precision of the settings."""
    import torch

    if config.dtype is not None:
        tiny.model.to(getattr(torch, config.dtype))
    return tiny


def add_lora(config: RunConfig, policy: LMPolicy) -> LMPolicy:
    """Return the policy with LoRA adapters where the settings have a rank, else the policy."""
    if not config.lora_rank:
        return policy
    names = config.lora_targets
    targets = names if names in (None, "all-linear") else [name.strip() for name in names.split(",")]
    return policy.with_lora(config.lora_rank, alpha=config.lora_alpha, target_modules=targets, seed=config.seed)


def guide_for(config: RunConfig, envs: VectorEnv, policy: LMPolicy) -> Actor:
    """Return the guide that the settings name.

    Raises:
        ValueError: none is named, or it does not take the settings of its sampling.
    """
    from tril_gym.agents.actors.guide import Guide

    name = config.guide
    if name is None:
        raise ValueError(
            f"{config.algorithm} needs a guide that fits the policy {config.policy}; name one with --guide: references,"
            " successes, the name or folder of a language model, such as the supervised one, FILE.py:function, or the"
            " address of a server"
        )
    if config.guide_success_reward is not None and name != "successes":
        raise ValueError(f"--guide-success-reward is for --guide successes, not for --guide {name}; leave it out")
    if is_server_address(name):
        return guide_without_model(config)
    if name in ("references", "successes") or is_function_name(name):
        for option in MODEL_OPTIONS:
            if getattr(config, option) is not None:
                raise ValueError(
                    f"{flag_of(option)} is for a guide that is a language model, not for --guide {name}; leave it out"
                )
        return guide_without_model(config)
    model = _guide_model(config, name, envs, policy)
    temperature = 1.0 if config.guide_temperature is None else config.guide_temperature
    return Guide(model, temperature=temperature, top_k=config.guide_top_k, top_p=config.guide_top_p)


def is_outside_guide(name: str | None) -> bool:
    """Return whether a guide is a function of the user or behind a server, so that no checkpoint holds it."""
    return name is not None and (is_function_name(name) or is_server_address(name))


def guide_without_model(config: RunConfig) -> Actor:
    """Return a guide that needs no environment: a table of texts, a function of the user, or one behind a server."""
    from tril_gym.agents.actors.guide import Guide

    name = config.guide
    assert name is not None
    if name == "references":
        return Guide.references()
    if name == "successes":
        return Guide.successes(config.guide_success_reward)
    if is_server_address(name):
        chosen = {option.removeprefix("guide_"): getattr(config, option) for option in MODEL_OPTIONS}
        return Guide.from_server(name, **{option: value for option, value in chosen.items() if value is not None})
    return Guide.from_callable(resolve_function(name, option=f"--guide {name}"))


def _guide_model(config: RunConfig, name: str, envs: VectorEnv, policy: LMPolicy) -> LMPolicy:
    from tril_gym.agents.actors.policy import LMPolicy
    from tril_gym.agents.tiny import tiny_guide

    if name in TINY:
        settings = tiny_settings(config, of_guide=True)
        examples = base_attribute(envs, "examples") if settings["samples"] and settings.get("positive_only") else None
        if examples is not None and all(example.label != 1 for example in examples):
            logger.warning("no training example is labelled 1, so the tiny guide imitates all references")
            settings["positive_only"] = False
        guide = tiny_guide(envs, kind=TINY[name], device=config.device, **settings)
        return _as_chosen(config, guide.policy)
    if name == config.policy:  # already loaded; with LoRA not even its weights are copied
        return policy.frozen_copy()
    return LMPolicy.from_pretrained(name).to(config.device)
