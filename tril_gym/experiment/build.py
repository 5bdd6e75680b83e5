"""Build the environments, policy, guide and agent of a run from its settings.

This happens before anything is written, so that wrong settings leave no run folder behind.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.vector import VectorEnv

from tril_gym.data.splits import has_splits
from tril_gym.experiment.actors import (
    add_lora,
    checkpoint_policy,
    guide_for,
    guide_without_model,
    is_outside_guide,
    policy_for_envs,
    pretrained_policy,
)
from tril_gym.experiment.algorithms import agent_type
from tril_gym.experiment.best import best_of_run
from tril_gym.experiment.checkpoints import saved_layout
from tril_gym.experiment.checks import (
    check_answers,
    check_guide_function,
    check_held_out,
    check_pairs,
    check_references,
    check_rewards,
    has_references,
)
from tril_gym.experiment.config import (
    GUIDE_OPTIONS,
    RunConfig,
    env_args_for_env,
    env_args_for_reward,
    merged_env_args,
    without_reward_of,
)
from tril_gym.experiment.environments import (
    default_reward,
    make_envs,
    pretraining_envs,
    reward_of,
    warn_of_other_prompts,
    with_lengths,
)
from tril_gym.experiment.resolution import preset_reward, resolve
from tril_gym.experiment.resuming import MAY_CHANGE, saved_config
from tril_gym.experiment.run_data import evaluation_data, training_data
from tril_gym.experiment.run_folder import CONFIG, REWARD, RunFolder
from tril_gym.experiment.trust import check_trusted
from tril_gym.utils.config_fields import flag_of
from tril_gym.utils.devices import check_device
from tril_gym.utils.ranks import ALONE, Ranks
from tril_gym.utils.suggestions import path_with_suggestion
from tril_gym.utils.threads import cpu_threads
from tril_gym.utils.user_code import is_function_name

if TYPE_CHECKING:
    from tril_gym.agents.actors.policy import LMPolicy
    from tril_gym.agents.algorithms.agent import Agent

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunComponents:
    """What a run is made of."""

    config: RunConfig
    envs: VectorEnv  # for training
    agent: Agent
    eval_env_kwargs: dict[str, Any]  # select the held-out examples
    eval_description: str  # of the held-out examples

    def eval_envs(self, fitted: Path) -> VectorEnv:
        """Return the environment of the held-out examples, with the rewards that were fitted in training."""
        config = config_of_rank(self.config, self.agent.ranks)
        return make_envs(config, self.eval_env_kwargs, self.agent.policy, fitted=fitted)


def config_of_rank(config: RunConfig, ranks: Ranks) -> RunConfig:
    """Return the settings with this rank's share of the rows of the environment.

    Raises:
        ValueError: the ranks cannot have equally many.
    """
    if missing := -config.num_envs % ranks.size:
        raise ValueError(
            f"--num-envs {config.num_envs} is the number of texts that all processes write in parallel, and"
            f" {ranks.size} processes cannot share it evenly; use {config.num_envs + missing}"
        )
    return replace(config, num_envs=config.num_envs // ranks.size)


def build_run(config: RunConfig, ranks: Ranks = ALONE) -> RunComponents:
    """Build everything that a new run needs.

    The main process is first, so that the others find in the cache what it has pretrained.

    Raises:
        ValueError: (or another error that is the user's) a setting is wrong.
    """
    with ranks.main_first():
        config, parts, actors = _build_parts(resolve(config), ranks)
    agent = _agent_of(config, parts["envs"], actors, ranks)
    return RunComponents(config=config, agent=agent, **parts)


def _build_parts(config: RunConfig, ranks: Ranks) -> tuple[RunConfig, dict[str, Any], dict[str, Any]]:
    """Return the settings with what the data and the models add, the environments of a run, and its actors."""
    check_device(config.device)
    kind = agent_type(config.algorithm)
    for name in GUIDE_OPTIONS:
        if (value := getattr(config, name)) is not None and not kind.takes_guide:
            raise ValueError(f"{config.algorithm} works without a guide, got {flag_of(name)} {value}; leave it out")
    data, eval_env_kwargs, eval_description = training_data(config)
    if kind.needs_pairs:
        check_pairs(config, data)
    pretrained = pretrained_policy(config)
    envs = make_envs(config_of_rank(config, ranks), data, pretrained)
    fitting = _without_pretraining(config, envs)
    if fitting.pretrain_share != config.pretrain_share:
        return _build_parts(fitting, ranks)  # on all prompts
    config = with_lengths(fitting, envs)
    check_held_out(config, eval_env_kwargs, pretrained)
    check_rewards(config, data, pretrained)
    check_answers(config, envs, eval_env_kwargs)
    if config.guide is not None and is_function_name(config.guide):
        check_guide_function(config, data, pretrained, guide_without_model(config))
    if pretrained is None and config.tiny_samples:  # a wrong setting must not be found after minutes of pretraining
        without, actors = _build_actors(replace(config, tiny_samples=0, pretrain_share=1.0), envs, pretrained)
        _agent_of(without, envs, actors, ALONE)
    config, actors = _build_actors(config, pretraining_envs(config, data, envs), pretrained)
    parts = {"envs": envs, "eval_env_kwargs": eval_env_kwargs, "eval_description": eval_description}
    return config, parts, actors


def _without_pretraining(config: RunConfig, envs: VectorEnv) -> RunConfig:
    """Return the settings with tiny models of random weights where there are no references to pretrain them on."""
    if not config.tiny_samples or has_references(config, envs):
        return config
    logger.warning(
        "%s has no references, so tiny models begin with random weights; --policy NAME starts from a pretrained model",
        config.dataset or config.env,
    )
    return replace(config, tiny_samples=0, pretrain_share=1.0)


def _build_actors(config: RunConfig, envs: VectorEnv, pretrained: LMPolicy | None) -> tuple[RunConfig, dict[str, Any]]:
    """Return the settings with the critic that the policy has, and the policy with the guide if there is one."""
    policy = add_lora(config, policy_for_envs(config, envs) if pretrained is None else pretrained)
    takes_guide = agent_type(config.algorithm).takes_guide
    guide = {"guide": guide_for(config, envs, policy)} if takes_guide else {}
    return _with_critic(config, policy), {"policy": policy} | guide


def _agent_of(config: RunConfig, envs: VectorEnv, actors: dict[str, Any], ranks: Ranks) -> Agent:
    """Return the agent of a run."""
    kind = agent_type(config.algorithm)
    numbers = kind.config_type(**config.hyperparameters)
    agent: Agent = kind(envs=envs, config=numbers, seed=config.seed, ranks=ranks, **actors)
    if agent.needs_references:
        check_references(config, envs)
    return agent


def _with_critic(config: RunConfig, policy: LMPolicy) -> RunConfig:
    """Return the settings with the kind of critic that the policy has by default, where none is chosen."""
    from tril_gym.agents.learners.critic import default_critic

    if "critic" not in config.hyperparameters or config.hyperparameters["critic"] is not None:
        return config
    return replace(config, hyperparameters=config.hyperparameters | {"critic": default_critic(policy)})


def restore_run(config: RunConfig, checkpoint: Path, fitted: Path, ranks: Ranks = ALONE) -> RunComponents:
    """Build everything that a run needs to continue from a checkpoint."""
    data, eval_env_kwargs, eval_description = training_data(config)
    envs = make_envs(config_of_rank(config, ranks), data, checkpoint_policy(config, checkpoint), fitted=fitted)
    guide: dict[str, Any] = {"guide": guide_without_model(config)} if is_outside_guide(config.guide) else {}
    changes = {name: config.hyperparameters[name] for name in MAY_CHANGE if name in config.hyperparameters}
    names = ("attn_implementation", "device_map")  # which a saved model does not hold
    agent = agent_type(config.algorithm).load(
        checkpoint,
        envs=envs,
        device=config.device,
        loading={name: value for name in names if (value := getattr(config, name))},
        changes=changes,
        trust_remote_code=config.trust_remote_code,
        ranks=ranks,
        **guide,
    )
    return RunComponents(
        config=config, envs=envs, agent=agent, eval_env_kwargs=eval_env_kwargs, eval_description=eval_description
    )


class _NoGuide:
    """Stand in for the guide of a run that is only evaluated: the policy writes alone."""

    def start(self, texts: Any, infos: Any, layout: Any) -> Any:
        raise RuntimeError("an evaluation has no guide")


@dataclass(frozen=True, kw_only=True)
class EvaluationComponents:
    """What an evaluation is made of."""

    policy: LMPolicy
    ref_policy: LMPolicy | None
    envs: VectorEnv
    description: str  # of the examples
    reward: dict[str, float] | None  # terms with weights; None for the environment's own
    reward_settings: dict[str, Any]  # of the terms
    fitted: Path | None  # the folder with what the run's rewards were fitted to
    known_words: frozenset[str] | None  # of the run's training examples
    threads: int | None  # CPU threads to compute on; None for torch's choice
    check_model: bool  # whether the models must be checked


def build_evaluation(
    source: str,
    *,
    env: str | None,
    dataset: str | None,
    split: str | None,
    env_args: dict[str, Any],
    reward: dict[str, float] | None,
    num_envs: int,
    device: str,
    loading: dict[str, Any] | None = None,
    trust_code: bool = False,
    check_model: bool = True,
    checkpoint: str | None = None,
) -> EvaluationComponents:
    """Read a run folder, or load a model by name or folder, and create the environment to evaluate it in.

    `loading` has fields of `RunConfig` that say how a model is loaded; `check_model` checks how it reads. Code that
    only the settings of the run name is run with `trust_code`. Of a run, `checkpoint` is "last", "best", or the number
    of an iteration.

    Raises:
        ValueError: neither a run nor a model, or a setting is wrong.
    """
    check_device(device)
    folder = RunFolder(source)
    is_run = folder.is_run()
    loading = {name: value for name, value in (loading or {}).items() if value}
    _check_source(source, is_run=is_run, env=env, checkpoint=checkpoint, loading=loading)
    chosen = {"env": env, "dataset": dataset, "reward": reward, "num_envs": num_envs}
    given = {name: value for name, value in chosen.items() if value is not None}
    named = given | {"env_args": env_args}
    known = saved_config(folder, named) if is_run else RunConfig(algorithm="none", policy=source, **loading)
    config = _evaluated_config(known, env_args, given)
    if is_run:  # an evaluation has no guide
        check_trusted(asdict(replace(config, guide=None)), named, where=folder.path / CONFIG, trust_code=trust_code)
    data, description = evaluation_data(config, split)
    fitted = folder.path / REWARD if is_run else None
    with cpu_threads(config.cpu_threads):
        if is_run:
            policy, ref_policy, envs = _load_run(config, folder, data, description, device, checkpoint or "last")
        else:
            policy, ref_policy = _load_model(config, device), None
            envs = make_envs(config, data, policy)
        check_rewards(config, data, policy, fitted=fitted)
    return EvaluationComponents(
        policy=policy,
        ref_policy=ref_policy,
        envs=envs,
        description=description,
        reward=reward_of(config),
        reward_settings=config.env_args.get("reward_settings", {}),
        fitted=fitted,
        known_words=folder.read_words() if is_run else None,
        threads=config.cpu_threads,
        check_model=check_model and config.hyperparameters.get("check_model", True),
    )


def _check_source(
    source: str, *, is_run: bool, env: str | None, checkpoint: str | None, loading: dict[str, Any]
) -> None:
    """Raise `ValueError` for an option that a run, or a model, does not take, or that it needs."""
    if not is_run and checkpoint is not None:
        raise ValueError(f"--checkpoint {checkpoint} is for a run, and {source} is no run folder; leave it out")
    if not is_run and env is None:
        raise ValueError(
            f"{path_with_suggestion(source)} is no run folder, so it is taken for a model, and a model needs --env"
        )
    if is_run and loading:
        raise ValueError(f"{flag_of(next(iter(loading)))} is for a model, and {source} is a run folder; leave it out")


def _evaluated_config(known: RunConfig, env_args: dict[str, Any], given: dict[str, Any]) -> RunConfig:
    """Return the settings of a run or a model with others for an evaluation."""
    is_usual = known.reward in (default_reward(known.env), preset_reward(known)) and "reward" not in known.env_args
    if given.get("env", known.env) != known.env and is_usual:
        known = replace(known, reward=None, env_args=without_reward_of(known.env_args))  # the other one has its own
    if "reward" in env_args:
        known = replace(known, reward=None)
    elif "reward" in given:
        known = replace(known, env_args={name: own for name, own in known.env_args.items() if name != "reward"})
    if "dataset" in given:  # of other data than the run's, all are new to the policy
        is_run, is_same = known.algorithm != "none", _is_same(given["dataset"], known.dataset or "embedded")
        if is_run and is_same and known.eval_dataset is not None and not has_splits(given["dataset"]):
            raise ValueError(
                f"the run learned from all of {given['dataset']}, so none of it is held out; leave --dataset out"
                f" to evaluate on its held-out data, {known.eval_dataset}"
            )
        is_other = is_run and not is_same
        known = replace(known, eval_dataset=given["dataset"] if is_other else None)
        if is_other and given.get("env", known.env) == known.env:  # rewards that are new are fitted to the run's data
            given = {name: value for name, value in given.items() if name != "dataset"}
    known_args = env_args_for_env(known.env_args, known.env, given.get("env"))
    env_args = merged_env_args(env_args_for_reward(known_args, given.get("reward"), env_args), env_args)
    return replace(known, env_args=env_args, **given)


def _is_same(first: str, second: str) -> bool:
    """Return whether two data sets are one: names, files or folders."""
    return first == second or Path(first).expanduser().resolve() == Path(second).expanduser().resolve()


def _load_run(
    config: RunConfig, folder: RunFolder, data: dict[str, Any], description: str, device: str, which: str
) -> tuple[LMPolicy, LMPolicy | None, VectorEnv]:
    from tril_gym.agents.algorithms.saved_models import saved_policy

    checkpoint = folder.checkpoint_of(which)
    envs = make_envs(config, data, checkpoint_policy(config, checkpoint), fitted=folder.path / REWARD)
    if "chat" in (learned := saved_layout(checkpoint)):
        warn_of_other_prompts(envs, description, learned_from_chats=learned["chat"])
    kind = agent_type(config.algorithm)
    guide: dict[str, Any] = {"guide": _NoGuide()} if kind.takes_guide else {}
    trust = config.trust_remote_code
    agent = kind.load(checkpoint, envs=envs, device=device, trust_remote_code=trust, **guide)
    policy = agent.policy
    if which == "best":
        best, _ = best_of_run(folder.path)
        found = saved_policy(best, trust_remote_code=trust).to(device)
        policy = found.with_decoding(policy.decoding)
    return policy, agent.learner.first_policy, envs


def _load_model(config: RunConfig, device: str) -> LMPolicy:
    policy = pretrained_policy(replace(config, device=device), trains=False)
    if policy is None:
        raise ValueError(f"{config.policy} is created by training; evaluate the run folder that `tril-gym train` wrote")
    return policy
