"""Train a reward model on preference pairs with `transformers.Trainer`: the loss, the batches, the checks of a step.

Bradley-Terry: completion y is preferred to z with probability σ(r(x, y) − r(x, z)), and training maximises the
likelihood of the pairs. Stiennon et al. 2020, section 3.3: https://arxiv.org/abs/2009.01325; Ouyang et al. 2022:
https://arxiv.org/abs/2203.02155. Differs from the papers: rewards are not shifted to a mean of 0 after training, and
the pairs of a prompt that has several are drawn one by one.

N pairs, B pairs of a batch, L tokens of the longest text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import WEIGHTS_NAME

from tril_gym.functional.preferences import preference_loss
from tril_gym.reward_model.config import RewardModelConfig
from tril_gym.reward_model.network import PairIds, pad_pairs, pair_rewards
from tril_gym.utils.ranks import ALONE, Ranks
from tril_gym.utils.seeding import seeded

BUCKET = 16  # tokens: pairs whose lengths differ by less count as equally long


class LengthGroupedBatches:
    """Batches of pairs of like length, in random order; each epoch has all pairs once, in an order of its own.

    Each of several processes reads its part of every batch; all parts of a batch have the same number of pairs. A batch
    that they cannot share evenly, at most one of an epoch, is filled up with pairs that it repeats.

    Args:
        lengths: (N,) tokens of each pair's longer text.
        batch_size: pairs of a batch of all processes; one batch, at any place of the order, may have fewer.
        seed: the order depends on it and on the epoch alone.
        ranks: the processes that share each batch; `batch_size` is a multiple of their number.
    """

    drop_last = False

    def __init__(self, lengths: Sequence[int], batch_size: int, *, seed: int, ranks: Ranks = ALONE) -> None:
        self.lengths, self.batch_size, self.seed, self.ranks = np.asarray(lengths), batch_size, seed, ranks
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        shuffled = rng.permutation(len(self.lengths))
        order = shuffled[np.argsort(self.lengths[shuffled] // BUCKET, kind="stable")]
        for index in rng.permutation(len(self)):
            batch = order[index * self.batch_size : (index + 1) * self.batch_size]
            filled = self.ranks.largest_share(len(batch)) * self.ranks.size
            yield np.resize(batch, filled)[self.ranks.share(filled)].tolist()


def hide_tokens(inputs: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Hide a share of the tokens from the model, at random, but for the first and the last of a text."""
    mask = inputs["attention_mask"]  # (B, L)
    last = mask.sum(1, keepdim=True) - 1
    place = torch.arange(mask.shape[1], device=mask.device)
    drawn = torch.rand(mask.shape).to(mask.device)  # on the CPU: the same tokens on every device
    is_seen = (drawn >= share) | (place == 0) | (place == last)
    return inputs | {"attention_mask": mask * is_seen}


class PreferenceTrainer(Trainer):
    """`transformers.Trainer` on preference pairs. What a step draws depends on the seed and its number alone.

    Args:
        model: a sequence classifier with one output, which is trained in place.
        args: of the run; see `training_arguments`.
        pairs: the texts of the N pairs as ids.
        pad_id: the tokenizer's.
        drop_tokens: probability that a token is masked.
        center_coef: see `preference_loss`.
        callback: called at the events of a run.
        ranks: the processes that train together; each reads its part of a batch.
    """

    loss_is_scaled_for_ga = False  # the loss is a mean over the batch

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        pairs: Sequence[PairIds],
        *,
        pad_id: int,
        drop_tokens: float,
        center_coef: float,
        callback: TrainerCallback,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(model, args, train_dataset=pairs, callbacks=[callback])
        self.remove_callback(PrinterCallback)
        self.ranks = ranks
        self.pairs, self.pad_id, self.drop_tokens, self.center_coef = pairs, pad_id, drop_tokens, center_coef
        self._step_metrics: dict[str, float] = {}

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return this process's parts of batches of like length."""
        lengths = [max(map(len, pair)) for pair in self.pairs]
        size = self.args.per_device_train_batch_size * self.ranks.size
        batches = LengthGroupedBatches(lengths, size, seed=self.args.seed, ranks=self.ranks)
        collate = partial(pad_pairs, pad_id=self.pad_id)
        loader: DataLoader[Any] = DataLoader(self.pairs, batch_sampler=batches, collate_fn=collate)  # type: ignore[arg-type]
        # `accelerator.prepare` would share the batches among the processes itself: it drops a short batch that is not
        # the last one, and gives a run that is resumed within an epoch the order of the first epoch.
        return prepare_data_loader(loader, device=self.args.device, num_processes=1, put_on_device=True)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the preference loss of B pairs, with `return_outputs` the rewards as well."""
        with seeded(self.args.seed, self.state.global_step, device=self.args.device):
            if self.drop_tokens:
                inputs = hide_tokens(inputs, self.drop_tokens)
            chosen, rejected = pair_rewards(model, inputs)
        self._step_metrics = self.ranks.sum({"correct": int((chosen > rejected).sum()), "pairs": len(chosen)})
        loss = preference_loss(chosen, rejected, center_coef=self.center_coef)
        return (loss, (chosen, rejected)) if return_outputs else loss

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Compute the gradient; nothing that is not finite reaches the optimizer.

        Raises:
            FloatingPointError: the loss or the gradient norm is not finite.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        # Here rather than where Trainer clips: clipping to an infinite norm makes finite gradients 0.
        norm = torch.nn.utils.get_total_norm([w.grad for w in model.parameters() if w.grad is not None])
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise FloatingPointError(
                f"step {self.state.global_step + 1} of {self.state.max_steps} has the loss {loss.item()} and the"
                f" gradient norm {norm.item()}; start again with a --learning-rate below {self.args.learning_rate}"
            )
        return loss

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the trained weights of a checkpoint by their names in memory, by which Trainer loads them.

        `save_pretrained` renames the weights of some models (Mixtral), and Trainer would leave those out in silence.
        """
        assert self.model is not None
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        torch.save(weights, folder / WEIGHTS_NAME)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep the figures of each step in the history, which a checkpoint saves."""
        super().log(logs | self._step_metrics, start_time)


def epoch_metrics(history: Sequence[dict[str, float]], *, first: int, last: int) -> dict[str, float]:
    """Return mean loss in nats and share of pairs right over some steps, as each batch was before its step.

    Args:
        history: what Trainer logged.
        first: number of the first step.
        last: number of the last step.
    """
    steps = [row for row in history if first <= row["step"] <= last and "loss" in row]
    pairs = sum(row["pairs"] for row in steps)
    return {
        "train/loss": sum(row["loss"] * row["pairs"] for row in steps) / pairs,
        "train/accuracy": sum(row["correct"] for row in steps) / pairs,
    }


def training_arguments(config: RewardModelConfig, folder: Path, *, steps: int, processes: int = 1) -> TrainingArguments:
    """Return Trainer's settings: it logs each step and leaves reports and checkpoints to the callback.

    Args:
        config: resolved settings.
        folder: where it writes checkpoints.
        steps: of the whole run.
        processes: that train together.
    """
    numbers: dict[str, Any] = asdict(config)
    args = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=numbers["epochs"],
        per_device_train_batch_size=numbers["batch_size"] // processes,
        learning_rate=numbers["learning_rate"],
        lr_scheduler_type="constant_with_warmup" if config.lr_schedule == "constant" else config.lr_schedule,
        warmup_steps=round(config.warmup * steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch",
        seed=config.seed,
        use_cpu=torch.device(config.device).type == "cpu",
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    args._n_gpu = min(1, args.n_gpu)  # else one process would split batches over all GPUs (nn.DataParallel)
    return args


class RunCallback(TrainerCallback):
    """Report each epoch, keep checkpoints, and stop after the step in progress when asked.

    Args:
        steps_per_epoch: optimizer steps of an epoch.
        on_step: called with the number of each step after it.
        on_epoch: called after each whole epoch with the number of the step and the epoch's training metrics.
        on_save: called with the folder of a complete checkpoint and the number of its step; may move the folder.
        stop_requested: whether to stop after this step.
    """

    def __init__(
        self,
        steps_per_epoch: int,
        *,
        on_step: Callable[[int], None],
        on_epoch: Callable[[int, dict[str, float]], None],
        on_save: Callable[[Path, int], None],
        stop_requested: Callable[[], bool],
    ) -> None:
        self.steps_per_epoch = steps_per_epoch
        self._on_step, self._on_epoch, self._on_save, self._stop_requested = on_step, on_epoch, on_save, stop_requested

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show progress, and stop if asked."""
        self._on_step(state.global_step)
        control.should_training_stop |= self._stop_requested()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report a whole epoch; ask for a checkpoint after it, and where the run stops within one."""
        step, first = state.global_step, state.global_step - self.steps_per_epoch + 1
        is_whole = step % self.steps_per_epoch == 0
        if is_whole:
            self._on_epoch(step, epoch_metrics(state.log_history, first=first, last=step))
        control.should_training_stop |= self._stop_requested()
        control.should_save = step < state.max_steps and (is_whole or control.should_training_stop)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hand the checkpoint over."""
        self._on_save(Path(args.output_dir) / f"checkpoint-{state.global_step}", state.global_step)
