"""What a run is made of: the environments, policy, guide and agent that its settings stand for.

Everything here happens before anything is written: a mistake in the settings is refused at this door.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.vector import VectorEnv

from tril_gym.experiment.actors import (
    guide_of,
    guide_without_model,
    language_policy,
    policy_for_envs,
    saved_policy,
    with_lora,
)
from tril_gym.experiment.algorithms import agent_type
from tril_gym.experiment.config import GUIDE_OPTIONS, TINY, RunConfig, fitting, merged, saved_config
from tril_gym.experiment.environments import (
    evaluation_data,
    learning_data,
    make_envs,
    refuse_missing_references,
    try_out,
)
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.utils.user_code import is_function_name

if TYPE_CHECKING:
    from tril_gym.agents.actors.policy import LMPolicy
    from tril_gym.agents.algorithms.agent import Agent


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run works with."""

    config: RunConfig
    envs: VectorEnv  # to learn in
    agent: Agent
    held_data: dict[str, Any]  # keywords of the environment of the held-out examples
    held_out: str  # in words: what they are

    def eval_envs(self, fitted: Path) -> VectorEnv:
        """The environment of the held-out examples, paid by what was fitted to the learning examples."""
        return make_envs(self.config, self.held_data, self.agent.policy, fitted=fitted)


def set_threads(config: RunConfig) -> None:
    """Tiny models compute on one thread, which also makes their figures the same on every machine of a kind."""
    import torch

    threads = config.threads or (1 if config.policy in TINY else None)
    if threads is not None:
        torch.set_num_threads(threads)


def build(config: RunConfig) -> Parts:
    """Make everything that a new run needs.

    Raises:
        ValueError: (or another error of the user's) any setting that cannot be.
    """
    set_threads(config)
    kind = agent_type(config.algorithm)
    numbers = kind.config_type(**config.hyperparameters)
    for name in GUIDE_OPTIONS:
        value, flag = getattr(config, name), "--" + name.replace("_", "-")
        if value is not None and not kind.takes_guide:
            raise ValueError(f"{config.algorithm} works without a guide, got {flag} {value}; leave it out")
    data, held_data, held_out = learning_data(config)
    language = language_policy(config)
    envs = make_envs(config, data, language)
    try_out(make_envs(replace(config, num_envs=1), held_data, language))
    policy = with_lora(config, policy_for_envs(config, envs) if language is None else language)
    guide = {"guide": guide_of(config, envs, policy)} if kind.takes_guide else {}
    agent = kind(policy=policy, envs=envs, config=numbers, seed=config.seed, **guide)
    if agent.needs_references:
        refuse_missing_references(config, envs)
    return Parts(config=config, envs=envs, agent=agent, held_data=held_data, held_out=held_out)


def restore(config: RunConfig, checkpoint: Path, fitted: Path) -> Parts:
    """Make everything that a run needs to go on from a checkpoint."""
    set_threads(config)
    data, held_data, held_out = learning_data(config)
    envs = make_envs(config, data, saved_policy(checkpoint), fitted=fitted)
    # Code is in no checkpoint.
    code = {"guide": guide_without_model(config.guide)} if config.guide and is_function_name(config.guide) else {}
    agent = agent_type(config.algorithm).load(checkpoint, envs=envs, device=config.device, **code)
    return Parts(config=config, envs=envs, agent=agent, held_data=held_data, held_out=held_out)


class _Nobody:
    """Stands in for the guide of a run that is evaluated: the policy writes alone."""

    def start(self, texts: Any, infos: Any, layout: Any) -> Any:
        raise RuntimeError("an evaluation has no guide")


@dataclass(frozen=True, kw_only=True)
class EvaluationParts:
    """What an evaluation works with."""

    policy: LMPolicy
    ref_policy: LMPolicy | None
    envs: VectorEnv
    what: str  # in words: the examples
    fitted: Path | None  # the folder with what the run's rewards were fitted to


def evaluation_parts(
    source: str,
    *,
    env: str | None,
    dataset: str | None,
    split: str | None,
    env_args: dict[str, Any],
    reward: dict[str, float] | None,
    num_envs: int,
    device: str,
) -> EvaluationParts:
    """Read a run folder, or load a model by name or folder, and make the environment to evaluate it in.

    Raises:
        ValueError: neither a run nor a model, or settings that cannot be.
    """
    folder = RunFolder(source)
    is_run = (folder.path / "config.json").is_file() and (folder.path / "checkpoints").is_dir()
    if not is_run and env is None:
        raise ValueError(f"{source} is no run folder, so it is taken for a model, and a model needs --env")
    known = saved_config(folder) if is_run else RunConfig(algorithm="none", policy=source)
    given: dict[str, Any] = {"env": env, "dataset": dataset, "reward": reward}
    config = replace(
        known,
        num_envs=num_envs,
        env_args=merged(fitting(known.env_args, reward), env_args),
        **{name: value for name, value in given.items() if value is not None},
    )
    set_threads(config)
    data, what = evaluation_data(config, split, eval_dataset=None if dataset else known.eval_dataset)
    fitted = folder.path / "reward" if is_run else None
    if not is_run:
        policy = language_policy(replace(config, device=device))
        if policy is None:
            raise ValueError(f"{source} is made by training; evaluate the run folder that `tril-gym train` wrote")
        envs = make_envs(config, data, policy)
        return EvaluationParts(policy=policy, ref_policy=None, envs=envs, what=what, fitted=None)
    checkpoint = folder.last_checkpoint()
    envs = make_envs(config, data, saved_policy(checkpoint), fitted=fitted)
    kind = agent_type(config.algorithm)
    nobody = {"guide": _Nobody()} if kind.takes_guide else {}
    agent = kind.load(checkpoint, envs=envs, device=device, **nobody)
    ref_policy = agent.learner.ref_policy
    return EvaluationParts(policy=agent.policy, ref_policy=ref_policy, envs=envs, what=what, fitted=fitted)
