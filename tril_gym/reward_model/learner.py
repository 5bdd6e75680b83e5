"""A reward model: a sequence classifier with one output that learns from pairs which completion people prefer.

Bradley-Terry: the chance that completion y is preferred to z is σ(r(x, y) − r(x, z)), and the likelihood of the pairs
is what is learned. Stiennon et al. 2020, section 3.3: https://arxiv.org/abs/2009.01325; Ouyang et al. 2022:
https://arxiv.org/abs/2203.02155. Differs from the papers: rewards are not shifted to a mean of 0 afterwards, and the
pairs of a prompt that has several are drawn one by one.

N pairs, B pairs of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tril_gym.reward_model.network import TINY, Rows, drawing_from, pad_pairs, rewards_of
from tril_gym.utils.config_fields import check_bounds, config_field

BUCKET = 16  # tokens: pairs whose lengths differ by less count as equally long


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig:
    """Every number that training a reward model reads."""

    epochs: int | None = config_field(
        None, "passes over the pairs; default: 1; tiny: as many as make about 250 steps", minimum=1
    )
    batch_size: int = config_field(32, "pairs per optimizer step; tiny: 16", minimum=1)
    learning_rate: float = config_field(1e-5, "AdamW step size; tiny: 0.0005", above=0)
    lr_schedule: Literal["linear", "cosine", "constant"] = config_field(
        "linear", "how the learning rate falls to 0, if so"
    )
    warmup: float = config_field(0.05, "share of the steps in which the learning rate rises", minimum=0, maximum=1)
    weight_decay: float = config_field(0.01, "AdamW's, of matrices", minimum=0)
    max_grad_norm: float = config_field(1.0, "gradient norm is clipped to this", above=0)
    max_length: int | None = config_field(
        None, "tokens read, counted from the end; default: what the model can, at most 512", minimum=8
    )
    drop_tokens: float = config_field(0.0, "chance that a token is hidden in training; tiny: 0.3", minimum=0, below=1)
    center_coef: float = config_field(
        0.0, "weight of the squared sum of a pair's rewards, which holds rewards near 0", minimum=0
    )
    seed: int = config_field(0, "all randomness comes from it", minimum=0)

    def __post_init__(self) -> None:
        check_bounds(self)


# What a tiny model takes instead of the defaults.
TINY_HYPERPARAMETERS = {"batch_size": 16, "learning_rate": 5e-4, "drop_tokens": 0.3}
TINY_STEPS = 250


def config_for(model: str, **hyperparameters: Any) -> RewardModelConfig:
    """Return the hyperparameters that are given, and for the others what is usual for this model."""
    return RewardModelConfig(**((TINY_HYPERPARAMETERS if model == TINY else {}) | hyperparameters))


def usual_epochs(model: str, num_pairs: int, batch_size: int) -> int:
    """Return 1, for a large model overfits pairs at once; a tiny one needs some steps to learn anything."""
    return max(1, round(TINY_STEPS * batch_size / num_pairs)) if model == TINY else 1


def preference_loss(chosen: Tensor, rejected: Tensor, *, center_coef: float = 0.0) -> Tensor:
    """Negative log-likelihood of the preferences: their mean, in nats.

        L = mean −log σ(r(x, y) − r(x, z)) + c · (r(x, y) + r(x, z))²

    Stiennon et al. 2020, section 3.3: https://arxiv.org/abs/2009.01325. It knows the rewards of a prompt up to a
    constant only, which the second term settles (Eisenstein et al. 2023: https://arxiv.org/abs/2312.09244).

    Args:
        chosen: (B,) rewards r(x, y) of the preferred completions.
        rejected: (B,) rewards r(x, z) of the others.
        center_coef: c; 0 leaves the term out.
    """
    assert chosen.shape == rejected.shape, (chosen.shape, rejected.shape)
    loss = -functional.logsigmoid(chosen - rejected)  # (B,)
    return (loss + center_coef * (chosen + rejected).square()).mean()


def batches(lengths: Sequence[int], size: int, rng: np.random.Generator) -> list[list[int]]:
    """Part N pairs into batches of like length, in random order: every pair once.

    Args:
        lengths: tokens of each pair's longer text.
        size: pairs of a batch; the last one may have fewer.
        rng: what is drawn from.
    """
    shuffled = rng.permutation(len(lengths))
    order = shuffled[np.argsort(np.asarray(lengths)[shuffled] // BUCKET, kind="stable")]
    cut = [order[start : start + size].tolist() for start in range(0, len(order), size)]
    return [cut[index] for index in rng.permutation(len(cut))]


def hidden(inputs: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Hide a share of the tokens from the model, at random, but for the first and the last of a text."""
    mask = inputs["attention_mask"]  # (B, L)
    last = mask.sum(1, keepdim=True) - 1
    place = torch.arange(mask.shape[1])
    seen = (torch.rand(mask.shape) >= share) | (place == 0) | (place == last)
    return inputs | {"attention_mask": mask * seen}


class Learner:
    """A network, its optimizer, and where they stand. What a step draws depends on the seed and its number alone.

    Args:
        model: a sequence classifier with one output, which is trained in place.
        rows: the texts of the pairs as ids.
        config: the hyperparameters, `epochs` among them.
        pad_id: of the tokenizer.
    """

    def __init__(self, model: Any, rows: Rows, config: RewardModelConfig, *, pad_id: int) -> None:
        from transformers import get_scheduler

        assert config.epochs is not None, "a learner is told how long to learn"
        self.model, self.rows, self.config, self.pad_id = model.train(), rows, config, pad_id
        self.per_epoch = math.ceil(len(rows) / config.batch_size)
        self.step, self.total = 0, self.per_epoch * config.epochs
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        groups = [
            {"params": [weight for weight in trained if weight.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [weight for weight in trained if weight.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
        self.schedule = get_scheduler(
            "constant_with_warmup" if config.lr_schedule == "constant" else config.lr_schedule,
            self.optimizer,
            num_warmup_steps=round(config.warmup * self.total),
            num_training_steps=self.total,
        )
        self._sums = [0.0, 0.0, 0]  # loss, pairs right, pairs since the epoch began

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.step // self.per_epoch

    def steps(self) -> Iterator[bool]:
        """Take the steps that are left, one at a time; True after the last one of an epoch."""
        while self.step < self.total:
            for batch in self._batches_left():
                self._learn(batch)
                self.step += 1
                yield self.step % self.per_epoch == 0

    def _batches_left(self) -> list[list[int]]:
        rng = np.random.default_rng([self.config.seed, self.epoch])
        lengths = [max(len(first), len(second)) for first, second in self.rows]
        return batches(lengths, self.config.batch_size, rng)[self.step % self.per_epoch :]

    def _learn(self, batch: list[int]) -> None:
        if self.step % self.per_epoch == 0:
            self._sums = [0.0, 0.0, 0]
        inputs = pad_pairs([self.rows[index] for index in batch], self.pad_id)
        with drawing_from(self.config.seed, self.step, device=self.model.device):
            if self.config.drop_tokens:
                inputs = hidden(inputs, self.config.drop_tokens)
            chosen, rejected = rewards_of(self.model, inputs)
        loss = preference_loss(chosen, rejected, center_coef=self.config.center_coef)
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        if not torch.isfinite(norm):  # seen before the step, so the weights are as good as they were
            raise FloatingPointError(
                f"step {self.step + 1} of {self.total} has the loss {loss.item()} and the gradient norm {norm.item()};"
                f" start again with a --learning-rate below {self.config.learning_rate}"
            )
        self.optimizer.step()
        self.schedule.step()
        self._sums[0] += loss.item() * len(batch)
        self._sums[1] += (chosen > rejected).sum().item()
        self._sums[2] += len(batch)

    def figures(self) -> dict[str, float]:
        """Mean loss in nats and share of pairs right since the epoch began, as each batch was before its step."""
        loss, right, number = self._sums
        return {"train/loss": loss / max(1, number), "train/accuracy": right / max(1, number)}

    def state_dict(self) -> dict[str, Any]:
        """All that changes from step to step."""
        return {
            "weights": {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "sums": self._sums,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        for name, weight in self.model.named_parameters():
            if weight.requires_grad:
                weight.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self._sums = state["step"], state["sums"]
