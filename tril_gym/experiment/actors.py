"""The policy and the guide of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.vector import VectorEnv

from tril_gym.experiment import presets
from tril_gym.experiment.config import TINY, RunConfig
from tril_gym.utils.user_code import is_function_name, resolve_function

if TYPE_CHECKING:
    from tril_gym.agents.actors.policy import LMPolicy
    from tril_gym.agents.collection.actor import Actor


def saved_policy(checkpoint: Path) -> LMPolicy:
    """The policy of a checkpoint."""
    from tril_gym.agents.actors.policy import LMPolicy

    return LMPolicy.from_pretrained(checkpoint / "policy")


def language_policy(config: RunConfig) -> LMPolicy | None:
    """A policy by name or folder; None for tiny ones, which are made for an environment that must be there first."""
    if config.policy in TINY:
        return None
    from tril_gym.agents.actors.policy import LMPolicy
    from tril_gym.utils.tokenization import load_tokenizer

    settings: dict[str, Any] = {"with_tokenizer": config.tokenizer is None}
    if config.load_in_4bit or config.load_in_8bit:  # quantised where it is used
        bits = {"load_in_4bit": config.load_in_4bit, "load_in_8bit": config.load_in_8bit}
        settings |= bits | {"device_map": {"": config.device}}
    policy = LMPolicy.from_pretrained(config.policy, **settings).to(config.device)
    if config.tokenizer is not None:
        policy.tokenizer = load_tokenizer(config.tokenizer)
    return policy


def policy_for_envs(config: RunConfig, envs: VectorEnv) -> LMPolicy:
    """A tiny policy, made for an environment."""
    from tril_gym.agents.tiny import tiny_policy

    return tiny_policy(envs, kind=TINY[config.policy], **_tiny_settings(config)).to(config.device)


def with_lora(config: RunConfig, policy: LMPolicy) -> LMPolicy:
    """The policy with the adapters that the settings ask for."""
    if not config.lora_rank:
        return policy
    names = config.lora_targets
    targets = names if names in (None, "all-linear") else [name.strip() for name in names.split(",")]
    return policy.with_lora(config.lora_rank, alpha=config.lora_alpha, target_modules=targets, seed=config.seed)


def _tiny_settings(config: RunConfig) -> dict[str, Any]:
    own = {} if config.tiny_samples is None else {"samples": config.tiny_samples}
    return presets.load(config.preset, config.env).tiny | own


def guide_of(config: RunConfig, envs: VectorEnv, policy: LMPolicy) -> Actor:
    """The guide that the settings name, else the tiny one."""
    from tril_gym.agents.actors.guide import Guide
    from tril_gym.agents.tiny import GUIDE_TOP_P

    name = config.guide
    if name is None and config.policy not in TINY:
        raise ValueError(
            f"{config.algorithm} needs a guide that fits the policy {config.policy}; name one with --guide: references,"
            " the name or folder of a language model, such as the supervised one, or module:function"
        )
    if name is not None and (name == "references" or is_function_name(name)):
        if config.guide_top_k is not None or config.guide_top_p is not None:
            raise ValueError(f"--guide-top-k and --guide-top-p are for a language model, not for --guide {name}")
        return guide_without_model(name)
    top_p = GUIDE_TOP_P if config.guide_top_p is None else config.guide_top_p
    return Guide(_guide_model(config, envs, policy), top_k=config.guide_top_k, top_p=top_p)


def guide_without_model(name: str) -> Actor:
    """A guide that needs no environment: the references, or a function of the user's."""
    from tril_gym.agents.actors.guide import Guide

    return (
        Guide.references()
        if name == "references"
        else Guide.from_callable(resolve_function(name, option=f"--guide {name}"))
    )


def _guide_model(config: RunConfig, envs: VectorEnv, policy: LMPolicy) -> LMPolicy:
    from tril_gym.agents.actors.policy import LMPolicy
    from tril_gym.agents.tiny import tiny_guide

    name = config.guide
    if name is None or name in TINY:
        return tiny_guide(envs, kind=TINY[name or config.policy], **_tiny_settings(config)).policy.to(config.device)
    if name == config.policy:  # it is there already; with LoRA, its weights are not even copied
        return policy.frozen_copy()
    return LMPolicy.from_pretrained(name).to(config.device)
