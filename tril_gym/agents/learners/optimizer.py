"""How gradients become steps: AdamW, the schedule of its learning rate, and what saves memory and time on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from tril_gym.functional.sampling import Decoding
from tril_gym.utils.config_fields import check_bounds, config_field

Metrics = dict[str, float]
Autocast = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The numbers that every learner reads."""

    episodes_per_iteration: int | None = config_field(
        None, "texts collected between updates; default: one per environment row", minimum=1
    )
    learning_rate: float = config_field(1e-5, "AdamW step size of the policy", above=0)
    weight_decay: float = config_field(0.0, "AdamW weight decay of all networks", minimum=0)
    adam_betas: tuple[float, float] = config_field(
        (0.9, 0.999), "AdamW decay rates of the gradient's and its square's running means", minimum=0, below=1
    )
    lr_schedule: Literal["constant", "linear", "cosine"] = config_field(
        "constant", "how the learning rates fall to 0, if so"
    )
    lr_iterations: int | None = config_field(
        None, "iterations in which they fall; default: all of the run's", minimum=1
    )
    lr_warmup: int = config_field(0, "first iterations, in which the learning rates rise from near 0", minimum=0)
    epochs: int = config_field(4, "passes over the texts of an iteration", minimum=1)
    minibatch_size: int = config_field(32, "texts per optimizer step", minimum=1)
    gradient_accumulation: int = config_field(
        1, "parts a minibatch is computed in, to save memory; changes nothing else", minimum=1
    )
    gradient_checkpointing: bool = config_field(
        False, "compute activations twice, to save memory; changes nothing else"
    )
    mixed_precision: Literal["no", "bf16"] = config_field("no", "compute losses in bfloat16 under autocast")
    max_grad_norm: float = config_field(1.0, "gradient norm is clipped to this", above=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "adam_betas", tuple(self.adam_betas))  # JSON and YAML have lists only
        check_bounds(self)
        if len(self.adam_betas) != 2:
            raise ValueError(f"adam_betas must be two numbers, got {self.adam_betas}; the usual value is (0.9, 0.999)")
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

    def decoding(self) -> Decoding:
        """The policy's distribution."""
        return Decoding()


class Schedule:
    """The share of its learning rate that an optimizer has in each iteration, by a schedule of `transformers`.

    It rises in `lr_warmup` iterations, none of which has a share of 0, then stays or falls to 0 after `lr_iterations`.
    """

    def __init__(self, config: OptimizerConfig) -> None:
        from transformers import get_scheduler

        # The scheduler's steps are our iterations. It moves the rate of an optimizer that has nothing to optimize, so
        # that any number of ours, critics that come later among them, can take the same share.
        self._carrier = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
        self._scheduler = get_scheduler(
            "constant_with_warmup" if config.lr_schedule == "constant" else config.lr_schedule,
            self._carrier,
            num_warmup_steps=config.lr_warmup + 1,
            num_training_steps=(config.lr_iterations or 0) + 1,
        )
        self.iteration, self._end = 0, config.lr_iterations
        self._step()  # step 0 has the share 0

    def _step(self) -> None:
        self._carrier.step()  # or torch warns of an order that matters to nobody here
        self._scheduler.step()

    def advance(self) -> None:
        """The next iteration begins."""
        self.iteration += 1
        if self._end is None or self.iteration <= self._end:  # after its end, a cosine would rise again
            self._step()

    def apply(self, optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
        """Give an optimizer its rate in this iteration."""
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * self._scheduler.get_last_lr()[0]

    def state_dict(self) -> dict[str, int]:
        """Where it stands."""
        return {"iteration": self.iteration}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from `state_dict`."""
        for _ in range(self.iteration, state["iteration"]):
            self.advance()


def adamw(
    parameters: Iterable[nn.Parameter], config: OptimizerConfig, *, learning_rate: float | None = None
) -> torch.optim.AdamW:
    """Return an optimizer of these parameters, by default with the policy's learning rate."""
    return torch.optim.AdamW(
        list(parameters),
        lr=config.learning_rate if learning_rate is None else learning_rate,
        betas=config.adam_betas,
        weight_decay=config.weight_decay,
        fused=True,
    )


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Scale gradients down to a norm of at most `limit`, in place; returns their norm before.

    As `clip_grad_norm_`, which also multiplies all of them by 1 where there is nothing to do.
    """
    known = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in known if parameter.grad is not None])
    if not norm <= limit:  # NaN, too, goes on as `torch` has it
        nn.utils.clip_grads_with_norm_(known, limit, norm)
    return float(norm)


def checkpoint_gradients(model: Any) -> None:
    """Let a model of `transformers` keep fewer activations for its backward pass, and compute them again."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable  # old name
    enable({"use_reentrant": False})  # the reentrant kind gives no gradient to adapters on a frozen model


def autocast_of(config: OptimizerConfig, device: torch.device) -> Autocast:
    """What the losses are computed within: nothing, or the lower precision of accelerate."""
    if config.mixed_precision == "no":
        return nullcontext
    from accelerate import Accelerator

    return Accelerator(mixed_precision=config.mixed_precision, cpu=device.type == "cpu").autocast  # type: ignore[no-any-return]
