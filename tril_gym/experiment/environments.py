"""The environments of a run: for training, for held-out examples, for an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv

from tril_gym.experiment.config import RunConfig, without_reward_of
from tril_gym.registration import ENVIRONMENTS, accepts_dataset, length_keywords, reward_terms, without_module
from tril_gym.utils.suggestions import with_suggestion
from tril_gym.utils.user_code import import_user_module

if TYPE_CHECKING:
    from tril_gym.agents.actors.policy import LMPolicy

logger = logging.getLogger(__name__)


def make_envs(
    config: RunConfig, data: dict[str, Any], policy: LMPolicy | None, *, fitted: Path | None = None
) -> VectorEnv:
    """Return the vector environment of a run.

    Args:
        config: the settings.
        data: keywords of the environment that select its examples.
        policy: gives the tokenizer. Without one (a tiny policy, created for the environment later) embedded data use
            their own tokenizer, and other data get one fitted to them, because a tiny model learns little from the
            word pieces of a foreign vocabulary.
        fitted: a folder with what the rewards were fitted to.

    Raises:
        ValueError: there is no such environment, or it does not accept its keywords.
    """
    keywords: dict[str, Any] = dict(data) | config.env_args
    if accepts_dataset(config.env):
        own = {} if policy is None else _keywords_of(policy)
        if policy is None and data["dataset"] != "embedded":
            own = {"tokenizer": "fit"}
        keywords = own | keywords
    if config.reward is not None:
        keywords["reward"] = config.reward
    if fitted is not None and fitted.is_dir():
        keywords["fitted_rewards"] = str(fitted)
    mode: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}
    try:
        if _spec(config.env).vector_entry_point is None:  # a user's environment without a vector version
            return gym.make_vec(config.env, num_envs=config.num_envs, vector_kwargs=mode, **keywords)
        # Collection keeps no observation beyond a step, so ours need no copies.
        ours: dict[str, Any] = {"copy": False} if _is_ours(config.env) else {}
        return gym.make_vec(config.env, num_envs=config.num_envs, **ours | mode | keywords)
    except gym.error.Error as error:
        name = with_suggestion(config.env, gym.registry)
        raise ValueError(f"no environment {name}: {error}; tril-gym has {', '.join(ENVIRONMENTS)}") from error
    except TypeError as error:
        way_out = "" if _is_ours(config.env) else "; docs/your_own_environment.md describes what a run needs"
        raise ValueError(
            f"{config.env} cannot be created with {', '.join(keywords | mode)}: {error}{way_out}"
        ) from error


def _keywords_of(policy: LMPolicy) -> dict[str, Any]:
    """Return the keywords of an environment for a policy: its tokenizer, and where its texts and prompts end."""
    own: dict[str, Any] = {"tokenizer": policy.tokenizer, "vocab_size": policy.vocab_size}
    eos = None if policy.tokenizer is None else policy.tokenizer.eos_token_id
    ends = [token for token in policy.eos_token_ids if token != eos]
    if eos is not None and ends:
        own["eos_token_ids"] = [eos, *ends]
    if not policy.model.config.is_encoder_decoder:
        own["prompt_eos"] = False
    return own


def _is_ours(env: str) -> bool:
    return without_module(env).startswith("tril/")


def _spec(env: str) -> EnvSpec:
    """Return the spec of an id, or of module:id after importing the module that registers it."""
    module, _, name = env.rpartition(":")
    if module:
        try:
            import_user_module(module)
        except Exception as error:  # of the user's code, such as SyntaxError
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"--env {env} is module:id, but {module} cannot be imported: {reason}") from error
    return gym.spec(name)


def default_reward(env: str) -> dict[str, float] | None:
    """Return the reward terms that an environment of ours has by default; None for others and without terms."""
    row = ENVIRONMENTS.get(without_module(env))
    return (dict(row.default_reward) or None) if row else None


def reward_of(config: RunConfig) -> dict[str, float] | None:
    """Return the reward terms of the environment that `make_envs` makes; None for other environments and without terms.

    They are in `reward`, else in a keyword of the environment, else those that it has by default.
    """
    if config.reward is not None or not _is_ours(config.env):
        return config.reward
    default = default_reward(config.env) or {}
    terms = reward_terms(config.env_args.get("reward", "default"), default)
    return {str(name): weight for name, _, weight in terms} or None


def pretraining_envs(config: RunConfig, data: dict[str, Any], envs: VectorEnv) -> VectorEnv:
    """Return the environment whose references tiny models imitate first, for training on this data.

    Args:
        config: the settings.
        data: the keywords that select the examples to train on.
        envs: the environment of the training, which is also that of the pretraining unless they share the prompts out.
    """
    if config.pretrain_share == 1:
        return envs
    config = replace(config, reward=None, env_args=without_reward(config.env_args))
    return make_envs(config, data | {"part": (0.0, config.pretrain_share)}, None)


def without_reward(env_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords of an environment of ours without its rewards."""
    return without_reward_of(env_args) | {"reward": None}


def warn_of_other_prompts(envs: VectorEnv, description: str, *, learned_from_chats: bool) -> None:
    """Log that a policy is evaluated on chats and learned from texts, or the other way round."""
    are_chats = bool(envs.metadata["text"].get("chat", False))
    if are_chats != learned_from_chats:
        logger.warning(
            "the policy was trained on prompts that are %s, but the prompts of %s are %s; use the same form for both: a"
            ' chat is a list such as [{"role": "user", "content": "…"}]',
            "chats" if learned_from_chats else "texts",
            description,
            "chats" if are_chats else "texts",
        )


def with_lengths(config: RunConfig, envs: VectorEnv) -> RunConfig:
    """Return the settings with the lengths that an environment of ours has, so that all of a run has these."""
    text = envs.metadata["text"]
    names = length_keywords(config.env)
    return replace(config, env_args={name: text[name] for name in names} | config.env_args)
