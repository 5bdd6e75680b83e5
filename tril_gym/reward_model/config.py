"""The settings of a reward model's training run, from which its command line is generated."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tril_gym.rewards.neural.preference import TEMPLATE, check_template
from tril_gym.utils.config_fields import MAX_COEFFICIENT, MAX_RATE, check_bounds, config_field
from tril_gym.utils.devices import check_device

TINY = "tiny"
TINY_STEPS = 250
MAX_TINY_LENGTH = 4096  # tokens
DEVICES = ("cpu", "cuda", "mps")
# Fields whose default depends on the model.
DEFAULTS = {"batch_size": 32, "learning_rate": 1e-5, "drop_tokens": 0.0}
TINY_DEFAULTS = {"batch_size": 16, "learning_rate": 5e-4, "drop_tokens": 0.3}


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig:
    """Every setting of a run. None means that the value depends on the model or the data; `resolve` fills it in."""

    dataset: str | None = config_field(
        None, "file, folder, or hub:owner/name; columns prompt, chosen, rejected; needed without --env", group="data"
    )
    env: str | None = config_field(
        None,
        "environment with pairs, such as tril/HH-v0, which reads the rows; default: rows are read as they are",
        group="data",
    )
    on_bad_row: Literal["raise", "skip"] = config_field("raise", "what to do with malformed rows", group="data")
    column: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "name in the data of prompt, chosen or rejected; may be repeated", "group": "data"},
    )
    template: str = config_field(TEMPLATE, "layout of the text that the model reads", group="data")
    chat_template: str | None = config_field(
        None, "file with the chat template of prompts that are chats; default: that of the model", group="data"
    )
    max_length: int | None = config_field(
        None, "tokens read, counted from the end; default: the model's maximum, at most 512", minimum=8, group="data"
    )
    model: str = config_field(
        TINY, "model to train: tiny, the name or folder of a model of transformers, or a run folder", group="model"
    )
    lora_rank: int = config_field(0, "rank of LoRA adapters; 0: train the whole model", minimum=0, group="model")
    lora_alpha: float | None = config_field(
        None,
        "LoRA adapters are scaled by alpha / rank; default: twice the rank",
        above=0,
        maximum=MAX_COEFFICIENT,
        group="model",
    )
    lora_targets: str | None = config_field(
        None,
        "layers with LoRA adapters: all-linear, or names such as q_proj,v_proj; default: peft's for the model",
        group="model",
    )
    epochs: int | None = config_field(
        None, "passes over the pairs; default: 1; tiny: as many as make about 250 steps", minimum=1
    )
    batch_size: int | None = config_field(None, "pairs per optimizer step; default: 32; tiny: 16", minimum=1)
    learning_rate: float | None = config_field(
        None, "AdamW step size; default: 0.00001; tiny: 0.0005", above=0, maximum=MAX_RATE
    )
    lr_schedule: Literal["linear", "cosine", "constant"] = config_field(
        "linear", "decay of the learning rate after its warmup"
    )
    warmup: float = config_field(0.05, "share of the steps in which the learning rate rises", minimum=0, maximum=1)
    weight_decay: float = config_field(0.01, "AdamW weight decay of matrices", minimum=0, maximum=MAX_COEFFICIENT)
    max_grad_norm: float = config_field(1.0, "gradient norm is clipped to this", above=0)
    drop_tokens: float | None = config_field(
        None, "probability that a token is masked in training; default: 0; tiny: 0.3", minimum=0, below=1
    )
    center_coef: float = config_field(
        0.0,
        "weight of the squared sum of a pair's rewards, which keeps rewards near 0",
        minimum=0,
        maximum=MAX_COEFFICIENT,
    )
    seed: int = config_field(0, "random seed of weights, batches and dropout", minimum=0, group="run")
    device: str = config_field("cpu", "torch device of the model: cpu or cuda", group="run")
    threads: int | None = config_field(
        None, "CPU threads; default: 1 for tiny, else torch's choice", minimum=1, group="run"
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.dataset is None and self.env is None:
            raise ValueError(
                "--dataset is missing: a file or folder of pairs with prompt, chosen and rejected; or --env tril/HH-v0,"
                " which has embedded ones"
            )
        check_template(self.template)
        if self.chat_template is not None and self.model == TINY:
            raise ValueError("--chat-template needs a model with a tokenizer of its own; name one with --model")
        if self.lora_rank == 0 and (self.lora_alpha is not None or self.lora_targets is not None):
            raise ValueError("--lora-alpha and --lora-targets need --lora-rank, such as 8")
        if self.lora_rank and self.model == TINY:
            raise ValueError("a tiny model is trained whole; leave --lora-rank out, or name a --model")
        if self.model == TINY and (self.max_length or 0) > MAX_TINY_LENGTH:
            raise ValueError(
                f"max_length of a tiny model must be at most {MAX_TINY_LENGTH}, got {self.max_length}; 512 is usual"
            )
        _check_device(self.device)


def _check_device(device: str) -> None:
    import torch

    check_device(device, samples=False)
    if torch.device(device).type not in DEVICES or torch.device(device).index:  # Trainer takes the first of a kind
        raise ValueError(
            f"device must be one of {', '.join(DEVICES)}, got {device!r}; choose a GPU with CUDA_VISIBLE_DEVICES"
        )


def resolve(config: RewardModelConfig, *, num_pairs: int, max_length: int) -> RewardModelConfig:
    """Return the config with a value in place of each None that depends on the model or the data.

    A large model overfits pairs quickly, so its default is one epoch; a tiny one needs some steps to learn anything.

    Args:
        config: the settings as given.
        num_pairs: pairs to learn from.
        max_length: tokens that the model reads.
    """
    is_tiny = config.model == TINY
    usual = TINY_DEFAULTS if is_tiny else DEFAULTS
    missing: dict[str, Any] = {name: value for name, value in usual.items() if getattr(config, name) is None}
    config = replace(config, max_length=max_length, **missing)
    if config.epochs is not None:
        return config
    assert config.batch_size is not None
    return replace(config, epochs=max(1, round(TINY_STEPS * config.batch_size / num_pairs)) if is_tiny else 1)
