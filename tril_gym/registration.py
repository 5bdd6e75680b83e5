"""The table of environments, and what `gym.make` and `gym.make_vec` build from a row of it.

An environment is added with a file in `tril_gym.envs` and a row of `ENVIRONMENTS`. Importing this module is cheap:
environments, wrappers and rewards are imported when the first environment is made.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tril_gym.utils.config_fields import check_weight
from tril_gym.utils.no_copy import unwrap_no_copy
from tril_gym.utils.suggestions import with_suggestion

if TYPE_CHECKING:
    import gymnasium as gym
    from gymnasium.vector import AutoresetMode, VectorEnv

    from tril_gym.data.examples import Examples
    from tril_gym.data.task import Task
    from tril_gym.envs.config import TextEnvConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A row of the table.

    Attributes:
        config: "module of tril_gym.envs:function"; the function returns a `TextEnvConfig` for the environment's
            keywords.
        default_reward: weights of rewards by name; empty where the environment computes its own reward, or has none.
    """

    config: str
    default_reward: Mapping[str, float]


LENGTHS = ("max_prompt_length", "max_new_tokens", "min_new_tokens")  # keywords, and keys of metadata["text"]
ENVIRONMENTS: dict[str, Registration] = {
    "tril/IMDB-v0": Registration(config="imdb:imdb_config", default_reward={"sentiment": 1.0}),
    "tril/CommonGen-v0": Registration(
        config="common_gen:common_gen_config", default_reward={"cider_d": 0.1, "concept_coverage": 1.0}
    ),
    "tril/TLDR-v0": Registration(config="tldr:tldr_config", default_reward={"rouge_l": 1.0}),
    "tril/HH-v0": Registration(config="hh:hh_config", default_reward={"preference": 1.0}),
    "tril/Text-v0": Registration(config="text:text_config", default_reward={}),
    "tril/Toy-v0": Registration(config="toy:toy_config", default_reward={}),
}


def make_text_env(
    env_id: str,
    *,
    reward: Any = "default",
    reward_settings: Mapping[str, Mapping[str, Any]] | None = None,
    fitted_rewards: str | Path | None = None,
    render_mode: str | None = None,
    **keywords: Any,
) -> gym.Env:
    """Return one environment, wrapped in its reward.

    Args:
        env_id: a key of `ENVIRONMENTS`.
        reward: "default", None for no wrapper, a reward's name, {name: weight}, a function of a batch of texts, or
            {name: function}.
        reward_settings: keywords of rewards by name, such as {"sentiment": {"model": "..."}}. "workers" sets the number
            of processes that score in a vector environment; see `VectorTextReward`.
        fitted_rewards: a folder whose sub-folders, named after the rewards, hold what they were fitted to.
        render_mode: None, "ansi", "human" or "rgb_array".
        keywords: those of the environment's configuration; see `text_env_config` and `toy_config`.
    """
    from tril_gym.envs.text_env import TextEnv

    if of_vectors := sorted({"autoreset_mode", "copy"} & set(keywords)):
        raise TypeError(
            f"{env_id} got an unexpected keyword argument {of_vectors[0]!r}, which is of vector environments:"
            ' gym.make_vec takes it; with vectorization_mode="sync" or "async" it is in'
            f" vector_kwargs={{{of_vectors[0]!r}: ...}}"
        )
    env = TextEnv(_make_config(env_id, reward, keywords), render_mode=render_mode)
    return _with_reward(env, env_id, reward, reward_settings, fitted_rewards)


def make_text_vector_env(
    env_id: str,
    num_envs: int = 1,
    *,
    reward: Any = "default",
    reward_settings: Mapping[str, Mapping[str, Any]] | None = None,
    fitted_rewards: str | Path | None = None,
    autoreset_mode: str | AutoresetMode = "NextStep",
    copy: bool = True,
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    **keywords: Any,
) -> VectorEnv:
    """Return a vector environment of `num_envs` texts, wrapped in its reward.

    Args:
        env_id: a key of `ENVIRONMENTS`.
        num_envs: number of texts that are written side by side.
        reward: see `make_text_env`.
        reward_settings: see `make_text_env`.
        fitted_rewards: see `make_text_env`.
        autoreset_mode: "NextStep", "SameStep" or "Disabled".
        copy: return copies of the observations; False returns the array that the next step changes.
        render_mode: None, "ansi", "human" or "rgb_array".
        max_episode_steps: steps after which a text is truncated, unscored; None: T, with which it ends.
        keywords: those of the environment's configuration; see `text_env_config` and `toy_config`.
    """
    from tril_gym.envs.text_vector_env import TextVectorEnv

    envs = TextVectorEnv(
        _make_config(env_id, reward, keywords),
        num_envs,
        autoreset_mode=autoreset_mode,
        copy=copy,
        render_mode=render_mode,
        max_episode_steps=max_episode_steps,
    )
    return _with_reward(envs, env_id, reward, reward_settings, fitted_rewards)


def without_module(env_id: str) -> str:
    """Return an id of Gymnasium without the module that it may name: `tril/Toy-v0` of `my_module:tril/Toy-v0`."""
    return env_id.split(":")[-1]


def accepts_dataset(env_id: str) -> bool:
    """Return whether an environment reads data sets: ours do, except the toy environment; others do not."""
    name = without_module(env_id)
    return name in ENVIRONMENTS and "dataset" in inspect.signature(_config_function(name)).parameters


def examples_of(
    env_id: str,
    *,
    dataset: Any,
    split: str | None = None,
    part: Sequence[float] | None = None,
    prompt_template: str | None = None,
    **reading: Any,
) -> Examples:
    """Return the examples that an environment with the keyword `dataset` would have, without making it.

    Args:
        env_id: a key of `ENVIRONMENTS` of such an environment.
        dataset: see `load_examples`, as the others.
        split: train, validation or test.
        part: see `text_env_config`.
        prompt_template: see `text_env_config`.
        reading: `on_bad_row` and `column`.
    """
    from tril_gym.data.sources import load_examples
    from tril_gym.data.splits import part_of
    from tril_gym.data.task import with_template

    task = with_template(task_of(env_id), prompt_template)
    return part_of(load_examples(task, dataset, split=split, **reading), part)


def task_of(env_id: str) -> Task:
    """Return the task of an environment with the keyword `dataset`.

    Raises:
        ValueError: there is no such environment, or it creates its own examples.
    """
    function = _config_function(without_module(env_id))
    if not accepts_dataset(env_id):
        raise ValueError(f"{env_id} creates its own examples and reads no data set")
    task: Task = function.args[0]
    return task


def length_keywords(env_id: str) -> tuple[str, ...]:
    """Return the keywords of an environment of ours that set lengths, whose defaults are its own or measured."""
    return LENGTHS if without_module(env_id) in ENVIRONMENTS else ()


def _config_function(env_id: str) -> Any:
    if env_id not in ENVIRONMENTS:
        name = with_suggestion(env_id, ENVIRONMENTS)
        raise ValueError(f"unknown environment {name}; the environments are {', '.join(ENVIRONMENTS)}")
    return pkgutil.resolve_name(f"tril_gym.envs.{ENVIRONMENTS[env_id].config}")


def _make_config(env_id: str, reward: Any, keywords: dict[str, Any]) -> TextEnvConfig:
    function = _config_function(env_id)
    known = inspect.signature(function).parameters
    if unknown := sorted(set(keywords) - set(known)):
        # In Python's own words: other libraries look for them.
        name = with_suggestion(unknown[0], known)
        raise TypeError(f"{env_id} got an unexpected keyword argument {name}; its own are {', '.join(known)}")
    config = function(**{name: unwrap_no_copy(value) for name, value in keywords.items()})
    if reward is None:
        return config
    if not (isinstance(reward, str) and reward == "default"):
        return config.without_reward()
    is_missing = config.reward_fn is None and not ENVIRONMENTS[env_id].default_reward
    return config.with_missing_reward() if is_missing else config


def _with_reward(
    env: Any,
    env_id: str,
    reward: Any,
    reward_settings: Mapping[str, Mapping[str, Any]] | None,
    fitted_rewards: str | Path | None,
) -> Any:
    """Wrap an environment in one `TextReward` per term."""
    from tril_gym.wrappers.text_reward import TextReward

    terms = reward_terms(unwrap_no_copy(reward), ENVIRONMENTS[env_id].default_reward)
    settings = check_reward_settings(unwrap_no_copy(reward_settings))
    names = [name for name, _, _ in terms if name]
    if unknown := sorted(set(settings) - set(names)):
        raise ValueError(
            f"reward_settings has {with_suggestion(unknown[0], names)}, which is no term of the reward; its terms:"
            f" {', '.join(names) or 'none by name'}"
        )
    for name, score, weight in terms:
        own = dict(settings.get(name, {})) if name else {}
        workers = own.pop("workers", None)  # a setting of the wrapper, whatever the reward
        env = TextReward(
            env,
            score,
            weight=weight,
            name=name if score is not name else None,
            settings=own or None,
            workers=workers,
            fitted=_fitted_folder(env, unwrap_no_copy(fitted_rewards), score, own) if isinstance(score, str) else None,
        )
    return env


def check_reward_settings(settings: Any) -> dict[str, Mapping[str, Any]]:
    """Return the settings of rewards by name; None has none.

    Raises:
        ValueError: they are none.
    """
    settings = {} if settings is None else settings
    if not isinstance(settings, Mapping) or not all(isinstance(own, Mapping) for own in settings.values()):
        raise ValueError(
            f'reward_settings must be settings by the name of a reward, such as {{"chrf": {{"word_order": 2}}}}, got'
            f" {settings!r}"
        )
    return dict(settings)


def reward_terms(reward: Any, default: Mapping[str, float]) -> list[tuple[str | None, Any, float]]:
    """Return the terms of a reward as (name, score, weight); a score by name is its name, a function may have none."""
    if reward is None:
        return []
    if isinstance(reward, str):
        return reward_terms(default, {}) if reward == "default" else [(reward, reward, 1.0)]
    if isinstance(reward, Mapping):
        return [
            (name, value, 1.0) if callable(value) else (name, name, check_weight(name, value))
            for name, value in reward.items()
        ]
    if callable(reward):
        return [(None, reward, 1.0)]
    raise ValueError(
        f'reward must be "default", None, a name, {{name: weight}}, a function or {{name: function}}, got {reward!r}'
    )


def _fitted_folder(env: Any, root: str | Path | None, name: str, settings: Mapping[str, Any]) -> str | None:
    """Return the sub-folder of one term, None where there is none: not every reward is fitted."""
    from tril_gym.rewards.registry import fitted_folder
    from tril_gym.wrappers.vector import base_attribute

    if root is None:
        return None
    if not Path(root).is_dir():
        raise ValueError(f"fitted_rewards={str(root)!r} is not a folder")
    folder = fitted_folder(Path(root), name, train=base_attribute(env, "examples_to_fit"), **settings)
    return None if folder is None else str(folder)
