"""What a run is made of: its settings, and the environments, policy, guide and agent that they stand for.

Everything here happens before anything is written: a mistake in the settings is refused at this door.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv

from tril_gym import presets
from tril_gym.algorithms import agent_type
from tril_gym.checkpoint import RunFolder
from tril_gym.infos import row_of

if TYPE_CHECKING:
    from tril_gym.agents.agent import Agent
    from tril_gym.agents.plan import Actor
    from tril_gym.agents.policy import LMPolicy

TINY = {"tiny": "causal", "tiny-seq2seq": "seq2seq"}  # policies and guides that need no download
GUIDE_OPTIONS = ("guide", "guide_top_k", "guide_top_p")
FUNCTION = re.compile(r"([^\W\d][\w.]*):([^\W\d]\w*)")  # module:function; names on the hub have no colon


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All that decides a run; `config.json` holds exactly this."""

    algorithm: str
    env: str = "tril/CommonGen-v0"
    dataset: str | None = None  # None: the environment's default, which is its embedded data
    eval_dataset: str | None = None  # None: the validation part of `dataset`
    env_args: dict[str, Any] = field(default_factory=dict)
    reward: dict[str, float] | None = None  # weights by name; None: the task's own
    policy: str = "tiny"
    tokenizer: str | None = None  # None: the policy's own
    lora_rank: int | None = None  # None or 0: the whole model trains
    lora_alpha: float | None = None  # None: twice the rank
    lora_targets: str | None = None  # names with commas between them, or all-linear; None: what peft knows to be usual
    load_in_4bit: bool = False
    load_in_8bit: bool = False
    guide: str | None = None
    guide_top_k: int | None = None  # None: all tokens
    guide_top_p: float | None = None  # None: the usual nucleus
    preset: str = "embedded"
    iterations: int = 40
    num_envs: int = 64
    eval_examples: int = 200
    save_every: int = 10
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None  # of the CPU; None: one for tiny models, else torch's own choice
    tiny_samples: int | None = None  # references that tiny models warm up on; None: the preset's
    knobs: dict[str, Any] = field(default_factory=dict)  # the algorithm's numbers that are not its defaults

    def __post_init__(self) -> None:
        for name in ("iterations", "num_envs", "eval_examples", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        self._check_policy()

    def _check_policy(self) -> None:
        flags = {"lora_alpha": "--lora-alpha", "lora_targets": "--lora-targets"}
        flags |= {"load_in_4bit": "--load-in-4bit", "load_in_8bit": "--load-in-8bit"}
        for name, flag in flags.items():
            if getattr(self, name) and not self.lora_rank:
                raise ValueError(f"{flag} is for LoRA, so it needs --lora-rank; 8 is usual")
        if self.policy in TINY and (self.load_in_4bit or self.load_in_8bit):
            raise ValueError(f"--policy {self.policy} is made, not loaded; leave --load-in-4bit and --load-in-8bit out")
        if self.policy in TINY and self.tokenizer is not None:
            raise ValueError(
                f"--policy {self.policy} is made for the environment's tokenizer, got --tokenizer {self.tokenizer};"
                f" --env-arg tokenizer={self.tokenizer} makes the environment with it"
            )

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def configure(algorithm: str, *, preset: str | None, given: dict[str, Any], knobs: dict[str, Any]) -> RunConfig:
    """Settings of a run: what is given wins over the preset, the preset over the defaults.

    Args:
        algorithm: a name of `ALGORITHMS`.
        preset: a preset's name; None chooses by the policy.
        given: fields of `RunConfig` that the user named.
        knobs: fields of the algorithm's config that the user named.
    """
    env, policy = given.get("env", RunConfig.env), given.get("policy", RunConfig.policy)
    chosen = presets.load(preset or ("embedded" if policy in TINY else "pretrained"), env, algorithm)
    settings = _given_over(chosen.run, given, takes_guide=agent_type(algorithm).takes_guide)
    numbers = chosen.knobs | knobs
    if numbers.get("lr_schedule", "constant") != "constant":
        numbers = {"lr_iterations": settings.get("iterations", RunConfig.iterations)} | numbers
    return RunConfig(
        algorithm=algorithm,
        preset=chosen.name,
        knobs=numbers,
        **{name: value for name, value in settings.items() if name not in ("algorithm", "preset", "knobs")},
    )


def _given_over(preset: dict[str, Any], given: dict[str, Any], *, takes_guide: bool) -> dict[str, Any]:
    """What the user named over what the preset says, without what then makes no sense."""
    useless: set[str] = set()
    if given.get("policy", preset.get("policy")) != preset.get("policy"):  # whose own the guide was
        useless |= {"tokenizer", *GUIDE_OPTIONS}
    if not takes_guide or given.get("guide", preset.get("guide")) != preset.get("guide"):
        useless |= {*GUIDE_OPTIONS}
    if given.get("policy") in TINY:
        useless |= {"load_in_4bit", "load_in_8bit"}
    if given.get("lora_rank") == 0:
        useless |= {"lora_alpha", "lora_targets", "load_in_4bit", "load_in_8bit"}
    kept = {name: value for name, value in preset.items() if name not in useless}
    env_args = _fitting(kept.get("env_args", {}), given.get("reward")) | given.get("env_args", {})
    return kept | given | {"env_args": env_args}


def _fitting(env_args: dict[str, Any], reward: dict[str, float] | None) -> dict[str, Any]:
    """Keywords of an environment without the settings of rewards that another reward has replaced."""
    if reward is None or "reward_settings" not in env_args:
        return env_args
    settings = {name: own for name, own in env_args["reward_settings"].items() if name in reward}
    return env_args | {"reward_settings": settings}


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
    numbers = kind.config_type(**config.knobs)
    for name in GUIDE_OPTIONS:
        value, flag = getattr(config, name), "--" + name.replace("_", "-")
        if value is not None and not kind.takes_guide:
            raise ValueError(f"{config.algorithm} works without a guide, got {flag} {value}; leave it out")
    data, held_data, held_out = _data(config)
    language = _language(config)
    envs = make_envs(config, data, language)
    try_out(make_envs(replace(config, num_envs=1), held_data, language))
    policy = _with_lora(config, _tiny_policy(config, envs) if language is None else language)
    guide = {"guide": _guide(config, envs, policy)} if kind.takes_guide else {}
    agent = kind(policy=policy, envs=envs, config=numbers, seed=config.seed, **guide)
    if agent.needs_references:
        refuse_missing_references(config, envs)
    return Parts(config=config, envs=envs, agent=agent, held_data=held_data, held_out=held_out)


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


def restore(config: RunConfig, checkpoint: Path, fitted: Path) -> Parts:
    """Make everything that a run needs to go on from a checkpoint."""
    set_threads(config)
    data, held_data, held_out = _data(config)
    envs = make_envs(config, data, saved_policy(checkpoint), fitted=fitted)
    # Code is in no checkpoint.
    code = {"guide": _guide_without_model(config.guide)} if config.guide and _is_function(config.guide) else {}
    agent = agent_type(config.algorithm).load(checkpoint, envs=envs, device=config.device, **code)
    return Parts(config=config, envs=envs, agent=agent, held_data=held_data, held_out=held_out)


def try_out(envs: VectorEnv) -> None:
    """Write one empty text, so that what is wrong with the data or the reward shows before the run begins."""
    from tril_gym.agents.layout import TextLayout

    try:
        envs.reset(seed=0)
        envs.step(np.full(envs.num_envs, TextLayout.of(envs).eos_token_ids[0]))
    except RuntimeError as error:  # a reward that raises
        raise ValueError(f"{error} ({error.__cause__})" if error.__cause__ else str(error)) from error
    envs.close()


def saved_config(folder: RunFolder) -> RunConfig:
    """The settings of the run in a folder."""
    return RunConfig(**folder.read_json("config.json"))


def refuse_changes(folder: RunFolder, algorithm: str, named: dict[str, Any]) -> None:
    """A resumed run keeps its settings: of those named, only `iterations` may differ.

    Raises:
        ValueError: another one does, or the run is one of another algorithm.
    """
    config = saved_config(folder)
    if config.algorithm != algorithm:
        raise ValueError(f"{folder.path} is a run of {config.algorithm}, not of {algorithm}")
    settled = asdict(agent_type(algorithm).config_type(**config.knobs)) | config.as_json()
    for name, value in named.items():
        if name != "iterations" and settled[name] != value:
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"a resumed run keeps its settings: {flag} is {settled[name]} in {folder.path}, got {value}; only"
                " --iterations may change"
            )


def saved_policy(checkpoint: Path) -> LMPolicy:
    """The policy of a checkpoint."""
    from tril_gym.agents.policy import LMPolicy

    return LMPolicy.from_pretrained(checkpoint / "policy")


def make_envs(
    config: RunConfig, data: dict[str, Any], policy: LMPolicy | None, *, fitted: Path | None = None
) -> VectorEnv:
    """A batch of the run's environment, for a policy's tokenizer.

    Without a policy (None: a tiny one, which is made for the environment) the embedded data have their own, and other
    data get one that is fitted to them: in pieces of foreign words a tiny model would learn nothing.
    """
    keywords: dict[str, Any] = dict(data) | config.env_args
    if _has_data(config.env):
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
        return gym.make_vec(config.env, num_envs=config.num_envs, **mode, **keywords)
    except gym.error.Error as error:
        known = ", ".join(name for name in gym.registry if name.startswith("tril/"))
        raise ValueError(f"no environment {config.env!r}: {error}; ours are {known}") from error
    except TypeError as error:
        raise ValueError(f"{config.env} cannot be made with {', '.join(keywords)}: {error}") from error


def _spec(env: str) -> EnvSpec:
    """The spec of an id, or of module:id after importing the module, which registers it."""
    module, _, name = env.rpartition(":")
    if module:
        _import(module)
    return gym.spec(name)


def _import(module: str) -> ModuleType:
    """Import a module of the user's; also from the current folder, where a console script does not look by itself."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    return importlib.import_module(module)


def _has_data(env: str) -> bool:
    """Whether an environment reads data sets: ours do, but for the toy world, which makes its own."""
    spec = gym.registry.get(env.split(":")[-1])
    return spec is not None and spec.kwargs.get("task", "toy") != "toy"


def _data(config: RunConfig) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Keywords of the learning and of the held-out environment, and what is held out in words."""
    if not _has_data(config.env):
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
    from tril_gym.envs.sources import HELD_OUT, hold_out

    examples = gym.make(config.env, dataset=name, reward=None).unwrapped.examples  # type: ignore[attr-defined]
    train, held_examples = hold_out(examples)
    if not train or not held_examples:
        raise ValueError(f"{name} has only {len(examples)} examples, too few to hold {HELD_OUT:.0%} out for evaluation")
    words = f"{len(held_examples)} of the {len(examples)} examples of {name}, chosen by a hash ({HELD_OUT:.0%})"
    return {"dataset": train}, {"dataset": held_examples}, words


def _language(config: RunConfig) -> LMPolicy | None:
    """A policy by name or folder; None for tiny ones, which are made for an environment that must be there first."""
    if config.policy in TINY:
        return None
    from tril_gym.agents.policy import LMPolicy
    from tril_gym.agents.pretrained import load_tokenizer

    settings: dict[str, Any] = {"with_tokenizer": config.tokenizer is None}
    if config.load_in_4bit or config.load_in_8bit:  # quantised where it is used
        bits = {"load_in_4bit": config.load_in_4bit, "load_in_8bit": config.load_in_8bit}
        settings |= bits | {"device_map": {"": config.device}}
    policy = LMPolicy.from_pretrained(config.policy, **settings).to(config.device)
    if config.tokenizer is not None:
        policy.tokenizer = load_tokenizer(config.tokenizer)
    return policy


def _tiny_policy(config: RunConfig, envs: VectorEnv) -> LMPolicy:
    from tril_gym.agents.policy import LMPolicy

    return LMPolicy.tiny(envs, kind=TINY[config.policy], **_tiny_settings(config)).to(config.device)


def _with_lora(config: RunConfig, policy: LMPolicy) -> LMPolicy:
    if not config.lora_rank:
        return policy
    names = config.lora_targets
    targets = names if names in (None, "all-linear") else [name.strip() for name in names.split(",")]
    return policy.with_lora(config.lora_rank, alpha=config.lora_alpha, target_modules=targets, seed=config.seed)


def _tiny_settings(config: RunConfig) -> dict[str, Any]:
    own = {} if config.tiny_samples is None else {"samples": config.tiny_samples}
    return presets.load(config.preset, config.env).tiny | own


def _guide(config: RunConfig, envs: VectorEnv, policy: LMPolicy) -> Actor:
    from tril_gym.agents.guide import Guide
    from tril_gym.agents.tiny import GUIDE_TOP_P

    name = config.guide
    if name is None and config.policy not in TINY:
        raise ValueError(
            f"{config.algorithm} needs a guide that fits the policy {config.policy}; name one with --guide: references,"
            " the name or folder of a language model, such as the supervised one, or module:function"
        )
    if name is not None and (name == "references" or _is_function(name)):
        if config.guide_top_k is not None or config.guide_top_p is not None:
            raise ValueError(f"--guide-top-k and --guide-top-p are for a language model, not for --guide {name}")
        return _guide_without_model(name)
    top_p = GUIDE_TOP_P if config.guide_top_p is None else config.guide_top_p
    return Guide(_guide_model(config, envs, policy), top_k=config.guide_top_k, top_p=top_p)


def _guide_without_model(name: str) -> Actor:
    from tril_gym.agents.guide import Guide

    return Guide.references() if name == "references" else Guide.from_callable(_function(name))


def _guide_model(config: RunConfig, envs: VectorEnv, policy: LMPolicy) -> LMPolicy:
    from tril_gym.agents.policy import LMPolicy
    from tril_gym.agents.tiny import tiny_guide

    name = config.guide
    if name is None or name in TINY:
        return tiny_guide(envs, kind=TINY[name or config.policy], **_tiny_settings(config)).policy.to(config.device)
    if name == config.policy:  # it is there already; with LoRA, its weights are not even copied
        return policy.frozen_copy()
    return LMPolicy.from_pretrained(name).to(config.device)


def _is_function(guide: str) -> bool:
    """Whether a guide is module:function, and no folder of that name."""
    return FUNCTION.fullmatch(guide) is not None and not Path(guide).exists()


def _function(guide: str) -> Callable[..., Any]:
    """The function that module:function names."""
    module, _, name = guide.partition(":")
    try:
        found = _import(module)
    except ImportError as error:
        raise ValueError(
            f"--guide {guide} is module:function, but there is no such module to import here ({error})"
        ) from error
    if not callable(getattr(found, name, None)):
        what = "no function" if not hasattr(found, name) else "something that is no function"
        raise ValueError(f"--guide {guide}: {found.__file__} has {what} of the name {name}")
    return getattr(found, name)  # type: ignore[no-any-return]


class _Nobody:
    """Stands in for the guide of a run that is evaluated: the policy writes alone."""

    def start(self, prompts: Any, completions: Any, infos: Any, layout: Any) -> Any:
        raise RuntimeError("an evaluation has no guide")


@dataclass(frozen=True, kw_only=True)
class EvaluationParts:
    """What an evaluation works with."""

    policy: LMPolicy
    ref_policy: LMPolicy | None
    envs: VectorEnv
    what: str  # in words: the examples


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
        env_args=_fitting(known.env_args, reward) | env_args,
        **{name: value for name, value in given.items() if value is not None},
    )
    set_threads(config)
    data, what = _evaluation_data(config, split, eval_dataset=None if dataset else known.eval_dataset)
    fitted = folder.path / "reward" if is_run else None
    if not is_run:
        policy = _language(replace(config, device=device))
        if policy is None:
            raise ValueError(f"{source} is made by training; evaluate the run folder that `tril-gym train` wrote")
        return EvaluationParts(policy=policy, ref_policy=None, envs=make_envs(config, data, policy), what=what)
    checkpoint = folder.last_checkpoint()
    envs = make_envs(config, data, saved_policy(checkpoint), fitted=fitted)
    kind = agent_type(config.algorithm)
    nobody = {"guide": _Nobody()} if kind.takes_guide else {}
    agent = kind.load(checkpoint, envs=envs, device=device, **nobody)
    return EvaluationParts(policy=agent.policy, ref_policy=agent.learner.ref_policy, envs=envs, what=what)


def _evaluation_data(config: RunConfig, split: str | None, eval_dataset: str | None) -> tuple[dict[str, Any], str]:
    """Keywords of the examples to evaluate on, and what they are in words."""
    if not _has_data(config.env):
        return {}, "the examples of the environment"
    name = eval_dataset or config.dataset or "embedded"
    if Path(name).is_file():
        if split is not None:
            raise ValueError(f"{name} is one file and has no splits; leave --split {split} out")
        if name == config.dataset and eval_dataset is None:
            _, held, words = _data(config)
            return held, words
        return {"dataset": name}, f"all of {name}"
    return {"dataset": name, "split": split or "test"}, f"the {split or 'test'} split of {name}"


def with_iterations(config: RunConfig, iterations: int | None) -> RunConfig:
    """The same run, longer or shorter.

    Raises:
        ValueError: longer than its learning rate lasts.
    """
    if iterations is None:
        return config
    falls = config.knobs.get("lr_schedule", "constant") != "constant"
    if falls and iterations > config.knobs["lr_iterations"]:
        raise ValueError(
            f"--iterations {iterations} is more than the {config.knobs['lr_iterations']} after which this run's"
            " learning rate is 0 (lr_schedule); start a new run, for example with the policy of this one"
        )
    return replace(config, iterations=iterations)
