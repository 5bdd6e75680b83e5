"""The settings of a run: where they come from, what wins over what, and which may change when it is resumed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tril_gym.experiment import presets
from tril_gym.experiment.algorithms import agent_type
from tril_gym.experiment.run_folder import RunFolder

TINY = {"tiny": "causal", "tiny-seq2seq": "seq2seq"}  # policies and guides that need no download
GUIDE_OPTIONS = ("guide", "guide_top_k", "guide_top_p")


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
    hyperparameters: dict[str, Any] = field(default_factory=dict)  # the algorithm's numbers that are not its defaults

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


def configure(
    algorithm: str, *, preset: str | None, given: dict[str, Any], hyperparameters: dict[str, Any]
) -> RunConfig:
    """Settings of a run: what is given wins over the preset, the preset over the defaults.

    Args:
        algorithm: a name of `ALGORITHMS`.
        preset: a preset's name; None chooses by the policy.
        given: fields of `RunConfig` that the user named.
        hyperparameters: fields of the algorithm's config that the user named.
    """
    env, policy = given.get("env", RunConfig.env), given.get("policy", RunConfig.policy)
    chosen = presets.load(preset or ("embedded" if policy in TINY else "pretrained"), env, algorithm)
    settings = _given_over(chosen.run, given, takes_guide=agent_type(algorithm).takes_guide)
    numbers = chosen.hyperparameters | hyperparameters
    if numbers.get("lr_schedule", "constant") != "constant":
        numbers = {"lr_iterations": settings.get("iterations", RunConfig.iterations)} | numbers
    return RunConfig(
        algorithm=algorithm,
        preset=chosen.name,
        hyperparameters=numbers,
        **{name: value for name, value in settings.items() if name not in ("algorithm", "preset", "hyperparameters")},
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
    env_args = merged(fitting(kept.get("env_args", {}), given.get("reward")), given.get("env_args", {}))
    return kept | given | {"env_args": env_args}


def fitting(env_args: dict[str, Any], reward: dict[str, float] | None) -> dict[str, Any]:
    """Keywords of an environment without the settings of rewards that another reward has replaced."""
    if reward is None or "reward_settings" not in env_args:
        return env_args
    settings = {name: own for name, own in env_args["reward_settings"].items() if name in reward}
    return env_args | {"reward_settings": settings}


def merged(env_args: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Keywords of an environment under those that the user gave; the settings of each reward are merged, too."""
    both = env_args | given
    if "reward_settings" in env_args and "reward_settings" in given:
        old, new = env_args["reward_settings"], given["reward_settings"]
        both["reward_settings"] = {name: old.get(name, {}) | new.get(name, {}) for name in old | new}
    return both


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
    settled = asdict(agent_type(algorithm).config_type(**config.hyperparameters)) | config.as_json()
    for name, value in named.items():
        if name != "iterations" and settled[name] != value:
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"a resumed run keeps its settings: {flag} is {settled[name]} in {folder.path}, got {value}; only"
                " --iterations may change"
            )


def with_iterations(config: RunConfig, iterations: int | None) -> RunConfig:
    """The same run, longer or shorter.

    Raises:
        ValueError: longer than its learning rate lasts.
    """
    if iterations is None:
        return config
    falls = config.hyperparameters.get("lr_schedule", "constant") != "constant"
    if falls and iterations > config.hyperparameters["lr_iterations"]:
        raise ValueError(
            f"--iterations {iterations} is more than the {config.hyperparameters['lr_iterations']} after which the"
            " learning rate of this run is 0 (lr_schedule); start a new run, for example with the policy of this one"
        )
    return replace(config, iterations=iterations)
