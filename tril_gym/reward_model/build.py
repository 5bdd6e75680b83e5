"""What training a reward model works on: its settings, the pairs, the network and its learner."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch

from tril_gym.data.preferences import PairData, load_pairs
from tril_gym.reward_model.learner import Learner, RewardModelConfig, config_for, usual_epochs
from tril_gym.reward_model.network import TINY, Rows, encode, load_network, tiny_network, with_lora
from tril_gym.rewards.neural.preference import TEMPLATE, check_template
from tril_gym.rewards.neural.pretrained import USUAL_LENGTH, length_to_read, positions_of
from tril_gym.utils.threads import cpu_threads


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run is; `hyperparameters` are the fields of `RewardModelConfig` that the user named."""

    dataset: str
    on_bad_row: str = "raise"
    model: str = TINY
    template: str = TEMPLATE
    lora_rank: int = 0
    lora_alpha: float | None = None
    lora_targets: str | None = None
    device: str = "cpu"
    threads: int | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_template(self.template)
        if self.lora_rank == 0 and (self.lora_alpha is not None or self.lora_targets is not None):
            raise ValueError("--lora-alpha and --lora-targets need --lora-rank, such as 8")
        if self.lora_rank and self.model == TINY:
            raise ValueError("a tiny model is trained whole; leave --lora-rank out, or name a --model")
        if self.model == TINY and (self.config.max_length or 0) > 4096:
            raise ValueError(
                f"max_length of a tiny model must be at most 4096, got {self.config.max_length}; 512 is usual"
            )
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"there is no device {self.device!r} here; the usual one is cpu ({error})") from error

    @property
    def config(self) -> RewardModelConfig:
        """All hyperparameters."""
        return config_for(self.model, **self.hyperparameters)


def settings_of(given: Mapping[str, Any]) -> Settings:
    """Settings and hyperparameters that the user named, sorted apart."""
    own = {field.name for field in fields(Settings)}
    hyperparameters = {name: value for name, value in given.items() if name not in own}
    return Settings(hyperparameters=hyperparameters, **{name: value for name, value in given.items() if name in own})


@dataclass(frozen=True)
class Parts:
    """What a run works on; its settings name every config_field."""

    settings: Settings
    pairs: PairData
    tokenizer: Any
    learner: Learner
    held_out: Rows


def build(settings: Settings) -> Parts:
    """Read the pairs and make the network.

    Raises:
        ValueError: the settings cannot be met.
    """
    pairs = load_pairs(settings.dataset, on_bad_row=settings.on_bad_row)
    model, tokenizer, max_length = _network(settings, pairs)
    config = settings.config
    epochs = config.epochs or usual_epochs(settings.model, len(pairs.train), config.batch_size)
    config = replace(config, epochs=epochs, max_length=max_length)
    rows, held_out = (
        encode(tokenizer, part, template=settings.template, max_length=max_length)
        for part in (pairs.train, pairs.held_out)
    )
    learner = Learner(model.to(settings.device), rows, config, pad_id=tokenizer.pad_token_id)
    return Parts(replace(settings, hyperparameters=asdict(config)), pairs, tokenizer, learner, held_out)


def _network(settings: Settings, pairs: PairData) -> tuple[Any, Any, int]:
    """Return the model, its tokenizer, and how many tokens it reads."""
    config, seed = settings.config, settings.config.seed
    if settings.model == TINY:
        length = config.max_length or USUAL_LENGTH
        return *tiny_network(pairs.train, template=settings.template, max_length=length, seed=seed), length
    model, tokenizer, new = load_network(settings.model, seed=seed)
    most, least = positions_of(model, tokenizer), tokenizer.num_special_tokens_to_add() + 1
    length = length_to_read(config.max_length, most=most, usual=USUAL_LENGTH, least=least)
    if settings.lora_rank:
        alpha, targets = settings.lora_alpha, settings.lora_targets
        model = with_lora(model, new, rank=settings.lora_rank, alpha=alpha, targets=targets, seed=seed)
    return model, tokenizer, length


def computing_on(settings: Settings) -> AbstractContextManager[None]:
    """Compute on the threads that are asked for: one for tiny models, else torch's choice."""
    return cpu_threads(settings.threads or (1 if settings.model == TINY else None))
