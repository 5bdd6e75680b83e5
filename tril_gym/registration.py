"""What `gym.make` and `gym.make_vec` build: a task's environment, wrapped in the terms of its reward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, VectorEnv

from tril_gym.envs.common_gen import COMMON_GEN
from tril_gym.envs.imdb import IMDB
from tril_gym.envs.problem import TextEnvConfig, text_env_config
from tril_gym.envs.text_env import TextEnv
from tril_gym.envs.text_vector_env import TextVectorEnv
from tril_gym.envs.tldr import TLDR
from tril_gym.envs.toy import toy_config
from tril_gym.utils.no_copy import unwrap_no_copy
from tril_gym.wrappers.text_reward import TextReward

ENV_CONFIGS: dict[str, Callable[..., TextEnvConfig]] = {
    "common_gen": partial(text_env_config, COMMON_GEN),
    "imdb": partial(text_env_config, IMDB),
    "tldr": partial(text_env_config, TLDR),
    "toy": toy_config,
}

# The reward of each task: weights by name. The toy world pays itself.
DEFAULT_REWARDS: dict[str, dict[str, float]] = {
    "common_gen": {"cider_d": 0.1, "concept_coverage": 1.0},
    "imdb": {"sentiment": 1.0},
    "tldr": {"rouge_l": 1.0},
    "toy": {},
}


def make_text_env(
    task: str,
    *,
    reward: Any = "default",
    reward_settings: Mapping[str, Mapping[str, Any]] | None = None,
    fitted_rewards: str | Path | None = None,
    render_mode: str | None = None,
    **keywords: Any,
) -> gym.Env:
    """Return one environment of a task, wrapped in its reward.

    Args:
        task: a key of `ENV_CONFIGS`.
        reward: "default", None for the bare environment, a reward's name, {name: weight}, a function of a batch of
            texts, or {name: function}.
        reward_settings: keywords of rewards by name, such as {"sentiment": {"model": "..."}}. "workers" lets so many
            processes score, in a vector environment; see `VectorTextReward`.
        fitted_rewards: a folder whose sub-folders, named after the rewards, hold what they were fitted to.
        render_mode: None, "ansi" or "human".
        keywords: the problem's own, see `text_env_config` and `toy_config`.
    """
    env = TextEnv(_problem(task, reward, keywords), render_mode=render_mode)
    return _with_reward(env, task, reward, reward_settings, fitted_rewards)


def make_text_vector_env(
    task: str,
    num_envs: int = 1,
    *,
    reward: Any = "default",
    reward_settings: Mapping[str, Mapping[str, Any]] | None = None,
    fitted_rewards: str | Path | None = None,
    autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    copy: bool = True,
    render_mode: str | None = None,
    **keywords: Any,
) -> VectorEnv:
    """Return a batch of `num_envs` texts of a task, wrapped in its reward.

    Args:
        task: see `make_text_env`, as all keywords that are not described here.
        num_envs: how many texts are written side by side.
        reward: what is paid.
        reward_settings: keywords of rewards by name.
        fitted_rewards: a folder with what rewards were fitted to.
        autoreset_mode: "NextStep", "SameStep" or "Disabled".
        copy: return copies of the observations; False returns the array that the next step changes.
        render_mode: None, "ansi" or "human".
        keywords: the problem's own.
    """
    problem = _problem(task, reward, keywords)
    envs = TextVectorEnv(problem, num_envs, autoreset_mode=autoreset_mode, copy=copy, render_mode=render_mode)
    return _with_reward(envs, task, reward, reward_settings, fitted_rewards)


def _problem(task: str, reward: Any, keywords: dict[str, Any]) -> TextEnvConfig:
    if task not in ENV_CONFIGS:
        raise ValueError(f"unknown task {task!r}; the tasks are {', '.join(ENV_CONFIGS)}")
    if task == "toy":  # a reward from outside takes the place of its own
        keywords = {"pays": reward is None or (isinstance(reward, str) and reward == "default")} | keywords
    known = inspect.signature(ENV_CONFIGS[task]).parameters
    if unknown := sorted(set(keywords) - set(known)):
        names = ", ".join(name for name in known if name not in ("task", "pays"))
        raise ValueError(f"the {task} environment has no keyword {unknown[0]!r}; of its own it has {names}")
    return ENV_CONFIGS[task](**{name: unwrap_no_copy(value) for name, value in keywords.items()})


def _with_reward(
    env: Any,
    task: str,
    reward: Any,
    reward_settings: Mapping[str, Mapping[str, Any]] | None,
    fitted_rewards: str | Path | None,
) -> Any:
    """Wrap an environment in one `TextReward` per term."""
    terms = reward_terms(unwrap_no_copy(reward), DEFAULT_REWARDS[task])
    settings = dict(unwrap_no_copy(reward_settings) or {})
    if unknown := sorted(set(settings) - {name for name, _, _ in terms if name}):
        names = ", ".join(name for name, _, _ in terms if name) or "none by name"
        raise ValueError(f"reward_settings has {unknown[0]!r}, which is no term of the reward; its terms: {names}")
    for name, score, weight in terms:
        own = dict(settings.get(name, {})) if name else {}
        workers = own.pop("workers", None)  # the wrapper's, whatever the reward
        env = TextReward(
            env,
            score,
            weight=weight,
            name=name if score is not name else None,
            settings=own or None,
            workers=workers,
            fitted=_fitted(unwrap_no_copy(fitted_rewards), name) if isinstance(score, str) else None,
        )
    return env


def reward_terms(reward: Any, default: Mapping[str, float]) -> list[tuple[str | None, Any, float]]:
    """Return the terms of a reward as (name, score, weight); a score by name is its name, a function may have none."""
    if reward is None:
        return []
    if isinstance(reward, str):
        return reward_terms(default, {}) if reward == "default" else [(reward, reward, 1.0)]
    if isinstance(reward, Mapping):
        return [
            (name, value, 1.0) if callable(value) else (name, name, weight_of(name, value))
            for name, value in reward.items()
        ]
    if callable(reward):
        return [(None, reward, 1.0)]
    raise ValueError(
        f'reward must be "default", None, a name, {{name: weight}}, a function or {{name: function}}, got {reward!r}'
    )


def weight_of(name: str, value: Any) -> float:
    """Return a weight that is a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"the weight of reward {name!r} must be a number, got {value!r}")
    return float(value)


def _fitted(folder: str | Path | None, name: str | None) -> str | None:
    """Return the folder of one term where there is one: rewards that fit nothing have none."""
    if folder is None:
        return None
    if not Path(folder).is_dir():
        raise ValueError(f"fitted_rewards={str(folder)!r} is no folder")
    own = Path(folder) / str(name).rpartition(":")[2]  # of module:class, too
    return str(own) if own.is_dir() else None
