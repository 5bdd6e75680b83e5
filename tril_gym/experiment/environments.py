"""The environments of a run: to learn in, held out, to evaluate in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv

from tril_gym.experiment.config import RunConfig
from tril_gym.registration import accepts_dataset
from tril_gym.utils.batched_infos import row_of
from tril_gym.utils.user_code import import_user_module

if TYPE_CHECKING:
    from tril_gym.agents.actors.policy import LMPolicy


def make_envs(
    config: RunConfig, data: dict[str, Any], policy: LMPolicy | None, *, fitted: Path | None = None
) -> VectorEnv:
    """A batch of the run's environment, for a policy's tokenizer.

    Without a policy (None: a tiny one, which is made for the environment) the embedded data have their own, and other
    data get one that is fitted to them: in pieces of foreign words a tiny model would learn nothing.
    """
    keywords: dict[str, Any] = dict(data) | config.env_args
    if has_data(config.env):
        own = {} if policy is None else {"tokenizer": policy.tokenizer, "vocab_size": policy.vocab_size}
        if policy is None and data["dataset"] != "embedded":
            own = {"tokenizer": "fit"}
        keywords = own | keywords
    if config.reward is not None:
        keywords["reward"] = config.reward
    if fitted is not None and fitted.is_dir():
        keywords["fitted_rewards"] = str(fitted)
    mode: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}
    try:
        if _spec(config.env).vector_entry_point is None:  # one of the user's own, single only
            return gym.make_vec(config.env, num_envs=config.num_envs, vector_kwargs=mode, **keywords)
        # Collection reads observations at once and keeps none, so ours need no copies.
        ours: dict[str, Any] = {"copy": False} if config.env.split(":")[-1].startswith("tril/") else {}
        return gym.make_vec(config.env, num_envs=config.num_envs, **ours | mode | keywords)
    except gym.error.Error as error:
        known = ", ".join(name for name in gym.registry if name.startswith("tril/"))
        raise ValueError(f"no environment {config.env!r}: {error}; ours are {known}") from error
    except TypeError as error:
        raise ValueError(f"{config.env} cannot be made with {', '.join(keywords)}: {error}") from error


def _spec(env: str) -> EnvSpec:
    """The spec of an id, or of module:id after importing the module, which registers it."""
    module, _, name = env.rpartition(":")
    if module:
        import_user_module(module)
    return gym.spec(name)


def has_data(env: str) -> bool:
    """Whether an environment reads data sets: ours do, but for the toy world, which makes its own."""
    return accepts_dataset(env.split(":")[-1])


def learning_data(config: RunConfig) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Keywords of the learning and of the held-out environment, and what is held out in words."""
    if not has_data(config.env):
        if config.dataset is not None or config.eval_dataset is not None:
            raise ValueError(f"{config.env} makes its own examples, got --dataset {config.dataset}; leave it out")
        return {}, {}, "the examples of the environment"
    name = "embedded" if config.dataset is None else config.dataset
    learning = {"dataset": name} if Path(name).is_file() else {"dataset": name, "split": "train"}
    other = config.eval_dataset
    if other is not None:
        whole = Path(other).is_file()
        held = {"dataset": other} | ({} if whole else {"split": "validation"})
        return learning, held, f"all of {other}" if whole else f"the validation split of {other}"
    if not Path(name).is_file():
        return learning, {"dataset": name, "split": "validation"}, f"the validation split of {name}"
    from tril_gym.data.sources import HELD_OUT, hold_out

    examples = gym.make(config.env, dataset=name, reward=None).unwrapped.examples  # type: ignore[attr-defined]
    train, held_examples = hold_out(examples)
    if not train or not held_examples:
        raise ValueError(f"{name} has only {len(examples)} examples, too few to hold {HELD_OUT:.0%} out for evaluation")
    words = f"{len(held_examples)} of the {len(examples)} examples of {name}, chosen by a hash ({HELD_OUT:.0%})"
    return {"dataset": train}, {"dataset": held_examples}, words


def evaluation_data(config: RunConfig, split: str | None, eval_dataset: str | None) -> tuple[dict[str, Any], str]:
    """Keywords of the examples to evaluate on, and what they are in words."""
    if not has_data(config.env):
        return {}, "the examples of the environment"
    name = eval_dataset or config.dataset or "embedded"
    if Path(name).is_file():
        if split is not None:
            raise ValueError(f"{name} is one file and has no splits; leave --split {split} out")
        if name == config.dataset and eval_dataset is None:
            _, held, words = learning_data(config)
            return held, words
        return {"dataset": name}, f"all of {name}"
    return {"dataset": name, "split": split or "test"}, f"the {split or 'test'} split of {name}"


def try_out(envs: VectorEnv) -> None:
    """Write one empty text, so that what is wrong with the data or the reward shows before the run begins."""
    from tril_gym.agents.collection.layout import TextLayout

    try:
        envs.reset(seed=0)
        envs.step(np.full(envs.num_envs, TextLayout.of(envs).eos_token_ids[0]))
    except RuntimeError as error:  # a reward that raises
        raise ValueError(f"{error} ({error.__cause__})" if error.__cause__ else str(error)) from error
    envs.close()


def refuse_missing_references(config: RunConfig, envs: VectorEnv) -> None:
    """Look at the examples that the environment begins with.

    Raises:
        ValueError: one has no references.
    """
    _, infos = envs.reset(seed=config.seed)
    for row in range(envs.num_envs):
        if not row_of(infos, row).get("references"):
            raise ValueError(
                f"{config.algorithm}, as it is set, learns from references, and example"
                f" {row_of(infos, row).get('example', '?')} of {config.env} has none; use data with references, or an"
                " algorithm and a guide that need none, such as ppo"
            )
