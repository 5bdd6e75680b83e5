"""The settings of a run: one dataclass, from which the command line is generated and which `config.yaml` holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tril_gym.experiment.run_folder import KEPT
from tril_gym.registration import LENGTHS, accepts_dataset, check_reward_settings
from tril_gym.utils.config_fields import (
    MAX_COEFFICIENT,
    MAX_RANK,
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    check_bounds,
    check_weight,
    config_field,
    flag_of,
)
from tril_gym.utils.servers import EXAMPLE, MAX_REQUESTS, MAX_RETRIES, ServerAddress, is_server_address

TINY = {"tiny": "causal", "tiny-seq2seq": "seq2seq"}  # policies and guides that need no download
LOADING_OPTIONS = ("dtype", "revision", "attn_implementation", "device_map", "trust_remote_code")
SERVER_OPTIONS = ("guide_token_ids", "guide_concurrency", "guide_retries", "guide_timeout", "guide_cache")
MODEL_OPTIONS = ("guide_temperature", "guide_top_k", "guide_top_p", *SERVER_OPTIONS)  # of a guide that is a model
GUIDE_OPTIONS = ("guide", *MODEL_OPTIONS, "guide_success_reward")
MAX_ENVS = 100_000  # texts in parallel; more do not fit into memory
DATA_HELP = "embedded, hub, a folder, or a file"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of a run. Make one with `configure`, which also reads the preset.

    The command line has an option for each field with a help text. A None stands for what its help says after
    "default:"; `configure` replaces it where that is known before the run starts.
    """

    algorithm: str
    preset: str = config_field(
        "embedded", "Preset with the settings to start from; default: embedded for tiny policies, else pretrained",
        group="run",
    )  # fmt: skip
    iterations: int = config_field(
        40, "Total number of iterations, each of collecting texts and learning from them", minimum=1, group="run"
    )
    num_envs: int = config_field(64, "Texts that are written in parallel", minimum=1, maximum=MAX_ENVS, group="run")
    seed: int = config_field(0, "Random seed of the run", minimum=0, maximum=2**32 - 1, group="run")
    device: str = config_field("cpu", "Torch device of the models, such as cpu or cuda", group="run")
    threads: int | None = config_field(
        None, "Number of CPU threads; default: 1 for tiny models, else torch's choice", minimum=1, group="run"
    )
    env: str = config_field("tril/CommonGen-v0", "Environment id", group="data")
    dataset: str | None = config_field(None, f"Data set: {DATA_HELP}; default: that of the environment", group="data")
    eval_dataset: str | None = config_field(
        None, "Data set of held-out examples; default: the validation part of --dataset", group="data"
    )
    eval_examples: int = config_field(
        200,
        "Number of held-out examples in an evaluation, a random sample; all where there are fewer",
        minimum=1,
        group="data",
    )
    eval_every: int = config_field(
        0,
        "Iterations between evaluations on the held-out examples; with 0 only before and after training",
        minimum=0,
        group="data",
    )
    env_args: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Keyword argument of the environment; may be repeated", "group": "data"}
    )
    policy: str = config_field(
        "tiny", "Policy: tiny, tiny-seq2seq, the name or folder of a model, or a run folder", group="policy"
    )
    tokenizer: str | None = config_field(
        None, "Tokenizer of a model that comes without one; default: the model's own", group="policy"
    )
    tiny_samples: int | None = config_field(
        None, "References that tiny models are pretrained on; default: as the preset says", minimum=0, group="policy"
    )
    pretrain_seconds: float | None = config_field(
        None,
        "Stop the pretraining of tiny models after so many seconds; the weights then depend on the machine's speed",
        above=0,
        group="policy",
    )
    pretrain_share: float = config_field(
        1.0,
        "Share of the training prompts whose references tiny models are pretrained on; below 1, training has the rest",
        above=0,
        maximum=1,
        group="policy",
    )
    lora_rank: int = config_field(
        0, "Rank of LoRA adapters to train; 0 trains the whole model", minimum=0, maximum=MAX_RANK, group="policy"
    )
    lora_alpha: float | None = config_field(
        None,
        "Scale of LoRA adapters, as alpha / rank; default: twice the rank",
        above=0,
        maximum=MAX_COEFFICIENT,
        group="policy",
    )
    lora_targets: str | None = config_field(
        None,
        "Layers with LoRA adapters: all-linear, or names such as q_proj,v_proj; default: peft's for the model",
        group="policy",
    )
    load_in_4bit: bool = config_field(False, "Quantise the policy's model to 4 bits; needs LoRA", group="policy")
    load_in_8bit: bool = config_field(False, "Quantise the policy's model to 8 bits; needs LoRA", group="policy")
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = config_field(
        None,
        "Precision of the weights of policy and tiny guides; default: float32 where all are trained, else as they"
        " were saved",
        group="policy",
    )
    revision: str | None = config_field(
        None, "Branch, tag or commit of the policy's repository; default: the newest", group="policy"
    )
    attn_implementation: str | None = config_field(
        None, "Attention of the policy, such as sdpa, eager or flash_attention_2; default: the model's", group="policy"
    )
    device_map: str | None = config_field(
        None, "Placement of the policy's layers, such as auto; default: all on --device", group="policy"
    )
    trust_remote_code: bool = config_field(
        False, "Run code from the policy's repository, for models that transformers does not know", group="policy"
    )
    guide: str | None = config_field(
        None,
        "Guide: tiny, tiny-seq2seq, references, successes (the best texts so far), the name or folder of a model, a run"
        " folder, a function of your own as FILE.py:function or module:function, or a model behind a server as"
        " http://host:port/v1#model; default: none, it must be named",
        group="guide",
    )
    guide_temperature: float | None = config_field(
        None,
        "Softmax temperature of a guide that is a model; default: 1, of a tiny one 0.3",
        minimum=MIN_TEMPERATURE,
        maximum=MAX_TEMPERATURE,
        group="guide",
    )
    guide_top_p: float | None = config_field(
        None, "Nucleus of a guide that is a model; default: 0.92", above=0, maximum=1, group="guide"
    )
    guide_top_k: int | None = config_field(
        None, "Most probable tokens that a guide that is a model samples from; default: all", minimum=1, group="guide"
    )
    guide_token_ids: bool | None = config_field(
        None,
        "Exchange token ids with a server, not text; default: where it has the environment's vocabulary",
        group="guide",
    )
    guide_concurrency: int | None = config_field(
        None, "Most requests to a server at once; default: 16", minimum=1, maximum=MAX_REQUESTS, group="guide"
    )
    guide_retries: int | None = config_field(
        None,
        "Further attempts where a server fails, after 1, 2, 4, … seconds; default: 5",
        minimum=0,
        maximum=MAX_RETRIES,
        group="guide",
    )
    guide_timeout: float | None = config_field(
        None, "Seconds without a sign of a server after which an attempt fails; default: 120", above=0, group="guide"
    )
    guide_cache: str | None = config_field(
        None, "Folder that keeps a server's answers, so that a resumed run gets the same; default: none", group="guide"
    )
    guide_success_reward: float | None = config_field(
        None, "Least reward of a text that --guide successes keeps; default: any", group="guide"
    )
    reward: dict[str, float] | None = field(
        default=None,
        metadata={
            "help": "Reward term by name, or a function of your own as FILE.py:function or module:function, instead of"
            " the environment's; may be repeated; default: that of the environment",
            "group": "reward",
        },
    )
    kl_warning: float = config_field(
        20.0,
        "KL to the reference policy, in nats per text, above which a run without a gain in held-out reward warns",
        above=0,
        group="KL",
    )
    save_every: int = config_field(10, "Iterations between checkpoints", minimum=1, group="output")
    keep: int = config_field(KEPT, "Checkpoints to keep, the last ones", minimum=1, group="output")
    hyperparameters: dict[str, Any] = field(default_factory=dict)  # fields of the algorithm's config

    def __post_init__(self) -> None:
        check_bounds(self)
        check_env_args(self)
        if self.reward is not None and not isinstance(self.reward, Mapping):
            raise ValueError(f"reward must be weights by name, such as {{'rouge_l': 1.0}}, got {self.reward!r}")
        for name, weight in (self.reward or {}).items():
            check_weight(name, weight)
        self._check_server()
        for name in ("lora_alpha", "lora_targets", "load_in_4bit", "load_in_8bit"):
            if getattr(self, name) and not self.lora_rank:
                raise ValueError(f"{flag_of(name)} is for LoRA, so it needs --lora-rank; 8 is usual")
        for name in LOADING_OPTIONS if self.policy in TINY else ():
            if name != "dtype" and getattr(self, name):
                raise ValueError(
                    f"{flag_of(name)} is for models that are loaded, --policy {self.policy} is created; leave it out"
                )
        if self.policy in TINY and (self.load_in_4bit or self.load_in_8bit):
            raise ValueError(
                f"--policy {self.policy} is created, not loaded, so it cannot be quantised; leave --load-in-4bit and"
                " --load-in-8bit out"
            )
        if self.pretrain_share < 1 and (self.policy not in TINY or self.tiny_samples == 0):
            raise ValueError(
                f"--pretrain-share {self.pretrain_share:g} is for tiny policies that are pretrained; leave it out"
            )
        if self.policy in TINY and self.tokenizer is not None:
            raise ValueError(
                f"--policy {self.policy} is created for the environment's tokenizer, got --tokenizer {self.tokenizer};"
                f" --env-arg tokenizer={self.tokenizer} gives the environment that one"
            )

    def _check_server(self) -> None:
        if self.guide is not None and is_server_address(self.guide):
            ServerAddress.parse(self.guide)
            return
        for name in SERVER_OPTIONS:
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{flag_of(name)} is for a guide behind a server, --guide {EXAMPLE}, not for --guide {self.guide};"
                    " leave it out"
                )

    @property
    def cpu_threads(self) -> int | None:
        """Number of CPU threads to compute on; None for torch's choice."""
        return self.threads or (1 if self.policy in TINY else None)


# Keywords of an environment that follow from settings of the run, and those settings.
RUN_KEYWORDS = {
    "num_envs": "--num-envs",
    "autoreset_mode": "no other setting: a run collects whole batches",
    "vectorization_mode": "no other setting: a run collects whole batches",
    "vector_kwargs": "no other setting: a run collects whole batches",
    "copy": "no other setting: a run keeps no observations",
    "render_mode": "`tril-gym evaluate --per-example FILE.jsonl`, which writes each text",
}
DATA_KEYWORDS = {  # of environments that read data sets
    "dataset": "--dataset",
    "split": "--dataset and --eval-dataset: a run learns on the train split; `tril-gym evaluate` takes --split",
    "fitted_rewards": "no other setting: a run saves what its rewards are fitted to in its folder",
}


def check_env_args(config: RunConfig) -> None:
    """Refuse keywords of the environment that the run itself chooses, which would change its data unseen.

    Raises:
        ValueError: names the keyword, its value, and the setting to use.
    """
    known = RUN_KEYWORDS | (DATA_KEYWORDS if accepts_dataset(config.env) else {})
    known |= {} if config.reward is None else {"reward": "--reward, which is given too"}
    for name in config.env_args.keys() & known.keys():
        raise ValueError(
            f"--env-arg {name}={config.env_args[name]} would override what the run chooses; use {known[name]}"
        )


def merged_env_args(env_args: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return keyword arguments of an environment updated with others, and so the settings of each reward."""
    both = env_args | given
    if "reward_settings" in env_args and "reward_settings" in given:
        old, new = (check_reward_settings(part["reward_settings"]) for part in (env_args, given))
        both["reward_settings"] = {name: {**old.get(name, {}), **new.get(name, {})} for name in old | new}
    return both


def env_args_for_reward(
    env_args: dict[str, Any], reward: dict[str, float] | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return keyword arguments of an environment without those on rewards that are replaced.

    Args:
        env_args: the keywords so far.
        reward: the terms that replace others, whose settings are left out; None replaces none.
        given: the keywords that will be added; a "reward" among them replaces the reward and all settings of terms.
    """
    if "reward" in given:
        return without_reward_of(env_args)
    if reward is None or "reward_settings" not in env_args:
        return env_args
    settings = check_reward_settings(env_args["reward_settings"])
    return env_args | {"reward_settings": {name: own for name, own in settings.items() if name in reward}}


def without_reward_of(env_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments of an environment without those that choose its reward."""
    return {name: value for name, value in env_args.items() if name not in ("reward", "reward_settings")}


def env_args_for_env(env_args: dict[str, Any], env: str | None, given: str | None) -> dict[str, Any]:
    """Return keyword arguments of an environment without its lengths where `given` is another one."""
    return env_args if given is None or given == env else without_lengths(env_args)


def without_lengths(env_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments of an environment without its lengths."""
    return {name: value for name, value in env_args.items() if name not in LENGTHS}
