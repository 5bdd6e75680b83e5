"""AdamW, its learning rates, and what saves memory and time when gradients are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tril_gym.functional.sampling import Decoding
from tril_gym.functional.schedules import learning_rate_factor
from tril_gym.models.sharding import as_shard, is_sharded, total_norm, whole_state
from tril_gym.utils.config_fields import MAX_COEFFICIENT, MAX_EPOCHS, MAX_RATE, check_bounds, config_field
from tril_gym.utils.ranks import ALONE, Ranks

Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Hyperparameters of every learner."""

    has_critic: ClassVar[bool] = False  # whether the policy's hidden states are read for values
    needs_rewards: ClassVar[bool] = True  # whether the environment's rewards are learned from

    episodes_per_iteration: int | None = config_field(
        None, "Texts collected per iteration; default: one per environment row", minimum=1
    )
    learning_rate: float = config_field(1e-5, "AdamW step size of the policy", above=0, maximum=MAX_RATE)
    weight_decay: float = config_field(0.0, "AdamW weight decay of all networks", minimum=0, maximum=MAX_COEFFICIENT)
    adam_betas: tuple[float, float] = config_field(
        (0.9, 0.999), "AdamW decay rates of the running means of gradient and squared gradient", minimum=0, below=1
    )
    lr_schedule: Literal["constant", "linear", "cosine"] = config_field(
        "constant", "Schedule by which the learning rates fall to 0"
    )
    lr_iterations: int | None = config_field(
        None,
        "Iterations until the learning rates are 0; default: all of the run's",
        minimum=1,
        only_with=("lr_schedule", "linear", "cosine"),
    )
    lr_warmup: int = config_field(0, "Iterations of linear warm-up of the learning rates", minimum=0)
    epochs: int = config_field(4, "Passes over the texts of an iteration", minimum=1, maximum=MAX_EPOCHS)
    minibatch_size: int = config_field(32, "Texts per optimizer step", minimum=1)
    gradient_accumulation: int = config_field(
        1, "Parts that a minibatch is computed in, to save memory; does not change the result", minimum=1
    )
    gradient_checkpointing: bool = config_field(
        False, "Recompute activations in the backward pass, to save memory; does not change the result"
    )
    mixed_precision: Literal["no", "bf16"] = config_field("no", "Precision of forward and backward passes (autocast)")
    max_grad_norm: float = config_field(1.0, "Maximum gradient norm; larger gradients are scaled down", above=0)
    skip_nonfinite: int = config_field(
        0,
        "Optimizer steps in a row that may be skipped because a loss or gradient norm is not finite; the next one stops"
        " the run",
        minimum=0,
    )
    check_model: bool = config_field(
        True, "Check before training that generation and scoring give the same log-probabilities with this model"
    )

    def __post_init__(self) -> None:
        if not isinstance(self.adam_betas, list | tuple) or len(self.adam_betas) != 2:
            raise ValueError(f"adam_betas must be two numbers, got {self.adam_betas}; the usual value is (0.9, 0.999)")
        object.__setattr__(self, "adam_betas", tuple(self.adam_betas))  # JSON and YAML have lists only
        check_bounds(self)
        if self.lr_schedule != "constant" and self.lr_iterations is None:
            raise ValueError(
                f"lr_schedule is {self.lr_schedule}, so lr_iterations must say after how many iterations the learning"
                " rate is 0; give the number that you will train for"
            )
        if self.lr_iterations is not None and self.lr_warmup >= self.lr_iterations:
            raise ValueError(
                f"lr_warmup must be less than the {self.lr_iterations} lr_iterations, got {self.lr_warmup}; a tenth is"
                " usual"
            )

    @property
    def collects_ahead(self) -> bool:
        """Whether the next batch is written while the one before it is learned from."""
        return False

    def decoding(self) -> Decoding:
        """Return how the policy turns logits into the distribution that it samples from."""
        return Decoding()

    def learning_rate_factor(self, iteration: int) -> float:
        """Return the factor of all scheduled learning rates in an iteration, counted from 0."""
        return learning_rate_factor(
            iteration, schedule=self.lr_schedule, warmup=self.lr_warmup, iterations=self.lr_iterations
        )


def adamw(
    parameters: Iterable[nn.Parameter],
    config: OptimizerConfig,
    *,
    learning_rate: float | None = None,
    ranks: Ranks = ALONE,
) -> torch.optim.Optimizer:
    """Return an optimizer of these parameters, by default with the policy's learning rate.

    With ZeRO each rank has the moments of a part of them and updates these; the others receive them.
    """
    settings: dict[str, Any] = {
        "lr": config.learning_rate if learning_rate is None else learning_rate,
        "betas": config.adam_betas,
        "weight_decay": config.weight_decay,
        "fused": True,
    }
    if not ranks.shards_optimizer:
        return torch.optim.AdamW(list(parameters), **settings)
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(list(parameters), torch.optim.AdamW, **settings)


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Scale gradients down to a norm, in place; return the norm before. Of sharded ones, it is that of all parts."""
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    if not any(is_sharded(parameter) for parameter in parameters):
        return float(nn.utils.clip_grad_norm_(parameters, limit))
    norm = total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)  # as of `clip_grad_norm_`
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad.mul_(float(factor))
    return float(norm)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of an optimizer with whole tensors; all processes call it.

    Under ZeRO the main process returns it, the others nothing.
    """
    if is_partitioned(optimizer):
        whole: Any = optimizer
        whole.consolidate_state_dict(to=0)
        return dict(optimizer.state_dict()) if torch.distributed.get_rank() == 0 else {}
    return whole_state(optimizer.state_dict())


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore moments that `optimizer_state` returned, sharded as the parameters are now.

    Step size, decay rates and weight decay stay those of the optimizer: its config may have changed.
    """
    settings = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state if is_partitioned(optimizer) else _as_sharded(state, optimizer))
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def _as_sharded(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of an optimizer with the parts of its tensors that belong to the parameters' own."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    found = {
        number: {
            name: as_shard(value, parameters[number]) if isinstance(value, Tensor) and value.ndim else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    return state | {"state": found}


def is_partitioned(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether each process has a part of the moments (ZeRO)."""
    if not torch.distributed.is_available():
        return False
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return isinstance(optimizer, ZeroRedundancyOptimizer)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all parameters of an optimizer."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def autocast_of(config: OptimizerConfig, device: torch.device) -> Autocast:
    """Return the context manager to compute losses in: `torch.autocast` for mixed precision, else nothing."""
    if config.mixed_precision == "no":
        return nullcontext
    return partial(torch.autocast, device.type, dtype=torch.bfloat16)
