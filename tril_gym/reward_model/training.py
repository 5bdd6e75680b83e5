"""Train a reward model in a run folder: its settings, metrics and checkpoints, and at the end the model itself.

    config.yaml  metrics.jsonl  evaluation.json  reward_model.json  config.json  model.safetensors  tokenizer.json  …

The folder is that of an ordinary sequence classifier of `transformers`, or with LoRA of an adapter. While a run is not
finished, `checkpoints/` has what it is resumed from.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import signal
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tril_gym.data.preferences import PAIRS, Margins, PairData, agreement, is_right, load_pairs
from tril_gym.data.task import Task
from tril_gym.experiment.run_folder import EVALUATION, RunFolder, to_resume
from tril_gym.registration import task_of
from tril_gym.reward_model.config import TINY, RewardModelConfig, resolve
from tril_gym.reward_model.network import (
    add_lora,
    encode_pairs,
    load_network,
    reward_margins,
    save_network,
    tiny_network,
)
from tril_gym.reward_model.report import epoch_line, result_lines, start_line
from tril_gym.rewards.neural.pretrained import USUAL_LENGTH, length_to_read, positions_of
from tril_gym.utils.atomic_files import scratch_folder
from tril_gym.utils.chats import read_template
from tril_gym.utils.config_fields import flag_of
from tril_gym.utils.console import RunConsole
from tril_gym.utils.global_state import preserve_global_state
from tril_gym.utils.interrupt import Interrupted, StopRequest, stop_at_once, stop_signal
from tril_gym.utils.quiet import only_errors_of_transformers
from tril_gym.utils.ranks import Ranks, join_ranks
from tril_gym.utils.threads import cpu_threads

METRICS, PAIRS_HASH = "metrics.jsonl", "pairs.sha256"
TRAINER_STATE = "trainer_state.json"


def prepare_reward_model(
    config: RewardModelConfig,
    output_dir: str | Path,
    *,
    console: RunConsole | None = None,
    force_unlock: bool = False,
) -> RewardModelRun:
    """Return a new run in a new folder. Nothing is written before all settings are known to be valid.

    Args:
        config: all settings.
        output_dir: an empty or new folder.
        console: prints the progress; by default on standard output.
        force_unlock: take the folder from another process that seems to use it.

    Raises:
        ValueError: a setting or the data is not valid, or the folder is not empty.
    """
    folder = RunFolder(output_dir, unit="step")
    folder.require_empty()
    ranks = _join(config)
    run = _build(config, folder, console, ranks)
    if ranks.is_main:
        folder.create(force_unlock=force_unlock)
        folder.write_config(asdict(run.config))
    return run.in_folder_of_rank()


def resume_reward_model(
    output_dir: str | Path,
    given: Mapping[str, Any],
    *,
    console: RunConsole | None = None,
    force_unlock: bool = False,
) -> RewardModelRun:
    """Return the run of a folder, at its last checkpoint.

    Args:
        output_dir: the folder.
        given: settings that the user named; none may differ from the run's.
        console: prints the progress; by default on standard output.
        force_unlock: take the folder from another process that seems to use it.

    Raises:
        ValueError: there is no such run, or a setting or the pairs have changed.
    """
    folder = RunFolder(output_dir, unit="step")
    try:
        config = RewardModelConfig(**folder.read_config())
    except TypeError as error:  # settings of an agent
        raise ValueError(f"{folder.path} is no run of a reward model: {error}") from error
    for name, value in given.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"a resumed run keeps its settings: {flag_of(name)} is {getattr(config, name)} in {folder.path},"
                f" got {value}"
            )
    ranks = _join(config)
    if ranks.is_main:
        folder.lock(force=force_unlock)
    try:
        run = _build(config, folder, console, ranks)
        if ranks.is_main and not run.is_finished:
            run.check_pairs()
            folder.truncate_after(run.step, [METRICS])
            folder.prune_checkpoints(run.step)
        return run.in_folder_of_rank()
    except BaseException:
        folder.unlock()
        raise


def _join(config: RewardModelConfig) -> Ranks:
    """Return the processes that train together, each with a replica of the model.

    Raises:
        ValueError: they would divide the model.
    """
    ranks = join_ranks(config.device)
    if ranks.shards or ranks.shards_optimizer:
        raise ValueError(
            "a reward model cannot be sharded: each process trains a replica; start it with torchrun or"
            " examples/accelerate/ddp.yaml"
        )
    return ranks


def _build(config: RewardModelConfig, folder: RunFolder, console: RunConsole | None, ranks: Ranks) -> RewardModelRun:
    """Read the pairs and make the network; the main process first, which may download it."""
    dataset = config.dataset or "embedded"
    config = replace(config, dataset=dataset)
    pairs = load_pairs(dataset, task=_task(config), on_bad_row=config.on_bad_row, column=config.column)
    with ranks.main_first(), _threads(config):
        model, tokenizer, max_length = _network(config, pairs)
    config = resolve(config, num_pairs=len(pairs.train), max_length=max_length)
    assert config.batch_size is not None
    if missing := -config.batch_size % ranks.size:
        raise ValueError(
            f"--batch-size {config.batch_size} is the number of pairs of all processes, and {ranks.size} processes"
            f" cannot share it evenly; use {config.batch_size + missing}"
        )
    return RewardModelRun(config, folder, console or RunConsole(), pairs, model, tokenizer, ranks, folder)


def _task(config: RewardModelConfig) -> Task:
    """Return how the rows are read: by an environment that has pairs, or as they are.

    Raises:
        ValueError: the environment has no pairs.
    """
    if config.env is None:
        return PAIRS
    task = task_of(config.env)
    if not task.has_pairs:
        raise ValueError(f"--env {config.env} has no pairs of completions; tril/HH-v0 has, or leave it out")
    return task


def _network(config: RewardModelConfig, pairs: PairData) -> tuple[Any, Any, int]:
    """Return the model, its tokenizer, and the number of tokens that it reads."""
    if config.model == TINY:
        length = config.max_length or USUAL_LENGTH
        network = tiny_network(pairs.train, template=config.template, max_length=length, seed=config.seed)
        return *network, length
    model, tokenizer, new = load_network(config.model, seed=config.seed)
    if config.chat_template is not None:
        tokenizer.chat_template = read_template(config.chat_template)
    most, least = positions_of(model, tokenizer), tokenizer.num_special_tokens_to_add() + 1
    length = length_to_read(config.max_length, most=most, usual=USUAL_LENGTH, least=least)
    if config.lora_rank:
        alpha, targets = config.lora_alpha, config.lora_targets
        model = add_lora(model, new, rank=config.lora_rank, alpha=alpha, targets=targets, seed=config.seed)
    return model, tokenizer, length


def _threads(config: RewardModelConfig) -> AbstractContextManager[None]:
    """Compute on the number of threads that the settings ask for."""
    return cpu_threads(config.threads or (1 if config.model == TINY else None))


@dataclass(frozen=True)
class RewardModelRun:
    """A run in its folder: what it trains, and on what."""

    config: RewardModelConfig  # resolved
    folder: RunFolder
    console: RunConsole
    pairs: PairData
    model: Any
    tokenizer: Any
    ranks: Ranks
    shared: RunFolder  # the folder of the main process, which has the checkpoints

    def in_folder_of_rank(self) -> RewardModelRun:
        """Return the same run, on other processes than the main one in a temporary copy of its folder."""
        self.ranks.barrier()  # until the main process has written the folder
        return self if self.ranks.is_main else replace(self, folder=self.folder.copy_of_rank())

    @property
    def is_finished(self) -> bool:
        """Whether its last metrics are written."""
        return (self.folder.path / EVALUATION).is_file()

    @property
    def checkpoint(self) -> Path | None:
        """The newest checkpoint without damage; None where there is none."""
        return self.shared.newest_checkpoint()

    @property
    def step(self) -> int:
        """The step of the last checkpoint; 0 where there is none."""
        if self.checkpoint is None:
            return 0
        return int(json.loads((self.checkpoint / TRAINER_STATE).read_text())["global_step"])

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        assert self.config.batch_size is not None
        return math.ceil(len(self.pairs.train) / self.config.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        assert self.config.epochs is not None
        return self.config.epochs * self.steps_per_epoch

    def run(self) -> dict[str, Any]:
        """Train, evaluate, save; return the content of evaluation.json.

        Raises:
            Interrupted: a signal such as Ctrl-C asked for a stop; the folder has a checkpoint and the model so far.
            FloatingPointError: a step's loss or gradient norm was not finite.
        """
        try:
            with stop_at_once():
                return self._run()
        except Interrupted:
            raise
        except (Exception, KeyboardInterrupt) as error:
            state = "no checkpoint was written yet, so the run will start over"
            if self.step:
                state = f"the newest checkpoint is of step {self.step} of {self.total_steps}"
            error.add_note(f"{state}; to continue, use {to_resume(self.folder.origin)}")
            raise
        finally:
            self.folder.unlock()
            if not self.ranks.is_main:
                self.folder.remove_copy()

    def _run(self) -> dict[str, Any]:
        if self.is_finished:
            self.console.say(f"the run in {self.folder.path} is finished")
            found: dict[str, Any] = self.folder.read_json(EVALUATION)
        else:
            with _threads(self.config):
                self.console.say(start_line(self.config, self.pairs, steps=self.total_steps))
                with preserve_global_state(), only_errors_of_transformers():
                    step, stop = self._train()
                if step < self.total_steps:
                    self._interrupt(step, stop.number)
                found = self._finish()
        for line in result_lines(found["right"], self.folder.path):
            self.console.say(line)
        self.console.event("end", folder=str(self.folder.path), evaluation=found)
        return found

    def margins(self) -> Margins:
        """Return the reward of each held-out pair's chosen completion less that of the rejected one."""
        return reward_margins(self.model, self.tokenizer, self.pairs.held_out, **self._layout)

    @property
    def _layout(self) -> dict[str, Any]:
        return {"template": self.config.template, "max_length": self.config.max_length}

    def check_pairs(self) -> None:
        """Raise ValueError where the pairs are no longer those of the last checkpoint."""
        if self.checkpoint is not None and (self.checkpoint / PAIRS_HASH).read_text() != pairs_hash(self.pairs):
            raise ValueError(
                f"the pairs of {self.config.dataset} have changed since the run in {self.folder.path} began; restore"
                " them, or start a new run"
            )

    def _train(self) -> tuple[int, StopRequest]:
        """Train from the last checkpoint on; return the last step, and the request by which it may have stopped."""
        # Imported here: it takes a second, and errors in the settings come first.
        from tril_gym.reward_model.trainer import PreferenceTrainer, RunCallback, training_arguments

        config = self.config
        assert config.drop_tokens is not None
        train = encode_pairs(self.tokenizer, self.pairs.train, **self._layout)
        checkpoint = self.checkpoint
        with (
            scratch_folder(self.folder.path / "checkpoint") as scratch,
            self.console.progress("training", total=self.total_steps, completed=self.step) as on_step,
            stop_signal() as stop_requested,
        ):
            callback = RunCallback(
                self.steps_per_epoch,
                on_step=on_step,
                on_epoch=self._report_epoch,
                on_save=self._keep_checkpoint,
                stop_requested=lambda: self.ranks.any(stop_requested()),
            )
            trainer = PreferenceTrainer(
                self.model,
                training_arguments(config, scratch, steps=self.total_steps, processes=self.ranks.size),
                train,
                ranks=self.ranks,
                pad_id=self.tokenizer.pad_token_id,
                drop_tokens=config.drop_tokens,
                center_coef=config.center_coef,
                callback=callback,
            )
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
            return int(trainer.state.global_step), stop_requested

    def _keep_checkpoint(self, draft: Path, step: int) -> None:
        def move(place: Path) -> None:
            draft.rename(place)

        if not self.ranks.is_main:
            return
        (draft / PAIRS_HASH).write_text(pairs_hash(self.pairs))
        self.folder.save_checkpoint(step, move)

    def _report_epoch(self, step: int, train_metrics: Mapping[str, float]) -> None:
        margins = self.margins()
        metrics = {"epoch": step // self.steps_per_epoch, "step": step, **train_metrics}
        metrics |= {"held_out/loss": margin_loss(margins), "held_out/accuracy": float(is_right(margins).mean())}
        self.folder.append(METRICS, metrics)
        self.console.say(epoch_line(metrics, epochs=self.config.epochs))
        self.console.event("epoch", **metrics)

    def _interrupt(self, step: int, number: int | None) -> None:
        self._save({"finished": False})
        raise Interrupted(
            f"stopped after step {step} of {self.total_steps}; the folder has the model so far; resume with"
            f" {to_resume(self.folder.origin)}",
            signal.SIGINT if number is None else number,
        )

    def _finish(self) -> dict[str, Any]:
        margins = self.margins()
        right = agreement(margins, self.pairs.held_out)
        found = {
            "held_out": self.pairs.source,
            "train_pairs": len(self.pairs.train),
            "loss": margin_loss(margins),
            "right": right,
        }
        self._save({"finished": True, "held_out_accuracy": right["reward_model"]["mean"]})
        self.folder.write_json(EVALUATION, found)
        if self.ranks.is_main:
            shutil.rmtree(self.folder.path / "checkpoints")
        return found

    def _save(self, report: dict[str, Any]) -> None:
        about = self._layout | {
            "model": self.config.model,
            "seed": self.config.seed,
            "train_pairs": len(self.pairs.train),
            "held_out_pairs": len(self.pairs.held_out),
        }
        if self.ranks.is_main:
            save_network(self.model, self.tokenizer, self.folder.path, about | report)


def margin_loss(margins: Margins) -> float:
    """Return the mean of −log σ of N margins, in nats."""
    return float(np.logaddexp(0.0, -margins).mean())


def pairs_hash(pairs: PairData) -> str:
    """Return a hash of all pairs, in order."""
    content = [[(pair.prompt, pair.chosen, pair.rejected) for pair in part] for part in (pairs.train, pairs.held_out)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
