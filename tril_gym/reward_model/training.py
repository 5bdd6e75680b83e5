"""Training a reward model in a folder: its settings, its figures, its checkpoint, and at the end the model itself.

    settings.json  metrics.jsonl  evaluation.json  reward_model.json  config.json  model.safetensors  tokenizer.json  …

The folder is that of an ordinary sequence classifier of `transformers`, or with LoRA of an adapter. While a run is not
finished, `checkpoint.pt` has what it goes on from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tril_gym.data.preferences import Margins, PairData, agreement, is_right
from tril_gym.experiment.report import RunConsole
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.reward_model.build import Parts, Settings, build, computing_on
from tril_gym.reward_model.network import margins, save_network
from tril_gym.utils.atomic_files import replace_file, replace_text
from tril_gym.utils.interrupt import Interrupted, stop_signal

CHECKPOINT, METRICS = "checkpoint.pt", "metrics.jsonl"


def prepare(settings: Settings, output_dir: str | Path, *, screen: RunConsole) -> Run:
    """A new run in a new folder. Nothing is written before everything is known to be right."""
    folder = RunFolder(output_dir)
    folder.require_empty()
    with computing_on(settings):
        parts = build(settings)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_json("settings.json", asdict(parts.settings))
    return Run(folder, parts, screen)


def prepare_resumed(output_dir: str | Path, given: Mapping[str, Any], *, screen: RunConsole) -> Run:
    """The run in a folder, as its checkpoint left it.

    Args:
        output_dir: the folder.
        given: settings and hyperparameters that the user named; none may differ from the run's.
        screen: what is shown on.

    Raises:
        ValueError: there is no such run, a setting or the pairs are others.
    """
    folder = RunFolder(output_dir)
    settings = Settings(**folder.read_json("settings.json"))
    settled = asdict(settings) | asdict(settings.config)
    for name, value in given.items():
        if settled[name] != value:
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"a resumed run keeps its settings: {flag} is {settled[name]} in {folder.path}, got {value}"
            )
    with computing_on(settings):
        run = Run(folder, build(settings), screen)
    if not run.is_finished:
        run.load_checkpoint()
    return run


class Run:
    """A run in its folder, from wherever its learner stands."""

    def __init__(self, folder: RunFolder, parts: Parts, screen: RunConsole) -> None:
        self.folder, self.parts, self.screen = folder, parts, screen
        self.settings, self.learner, self.held_out = parts.settings, parts.learner, parts.pairs.held_out

    @property
    def is_finished(self) -> bool:
        """Whether its last figures are written."""
        return (self.folder.path / "evaluation.json").is_file()

    def go(self) -> dict[str, Any]:
        """Learn, judge, write; returns what evaluation.json says."""
        if self.is_finished:
            self.screen.say(f"the run in {self.folder.path} is finished")
            found: dict[str, Any] = self.folder.read_json("evaluation.json")
        else:
            with computing_on(self.settings):
                self._opening()
                self._learn()
                found = self._finish()
        self._closing(found)
        return found

    def _learn(self) -> None:
        learner = self.learner
        columns = (TextColumn("learning"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
        hidden = not self.screen.console.is_terminal
        with (
            Progress(*columns, console=self.screen.console, transient=True, disable=hidden) as bar,
            stop_signal() as asked,
        ):
            task = bar.add_task("learning", total=learner.total, completed=learner.step)
            for is_whole_epoch in learner.steps():
                bar.update(task, completed=learner.step)
                if is_whole_epoch:
                    self._report()
                if asked() and learner.step < learner.total:
                    self._interrupt()
                if is_whole_epoch and learner.step < learner.total:
                    self.save_checkpoint()

    def _interrupt(self) -> None:
        self.save_checkpoint()
        self._save({"finished": False})
        raise Interrupted(
            f"stopped after step {self.learner.step} of {self.learner.total}; the folder has the model so far; go on"
            f" with --output-dir {self.folder.path} --resume"
        )

    def _report(self) -> None:
        held_out = self.judge()
        figures = {"epoch": self.learner.epoch, "step": self.learner.step} | self.learner.figures()
        figures |= {"held_out/loss": loss_of(held_out), "held_out/accuracy": float(is_right(held_out).mean())}
        self.folder.append(METRICS, figures)
        self.screen.say(
            f"epoch {figures['epoch']} of {self.learner.config.epochs}  loss {figures['train/loss']:.3f}  accuracy"
            f" {figures['train/accuracy']:.3f}  held out: loss {figures['held_out/loss']:.3f}  accuracy"
            f" {figures['held_out/accuracy']:.3f}"
        )

    def judge(self) -> Margins:
        """Reward of each held-out pair's chosen completion less that of the rejected one."""
        return margins(self.learner.model, self.parts.held_out, pad_id=self.learner.pad_id)

    def _finish(self) -> dict[str, Any]:
        held_out = self.judge()
        right = agreement(held_out, self.held_out)
        found = {
            "held_out": self.parts.pairs.source,
            "train_pairs": len(self.parts.pairs.train),
            "loss": loss_of(held_out),
            "right": right,
        }
        self._save({"finished": True, "held_out_accuracy": right["reward_model"]["mean"]})
        self.folder.write_json("evaluation.json", found)
        (self.folder.path / CHECKPOINT).unlink(missing_ok=True)
        return found

    def _save(self, report: dict[str, Any]) -> None:
        about = {
            "template": self.settings.template,
            "max_length": self.learner.config.max_length,
            "model": self.settings.model,
            "seed": self.learner.config.seed,
            "train_pairs": len(self.parts.pairs.train),
            "held_out_pairs": len(self.held_out),
        }
        save_network(self.learner.model, self.parts.tokenizer, self.folder.path, about | report)

    def save_checkpoint(self) -> None:
        """Write what the run goes on from, in one step."""
        state = self.learner.state_dict() | {"pairs": fingerprint(self.parts.pairs)}
        replace_file(self.folder.path / CHECKPOINT, lambda draft: torch.save(state, draft))

    def load_checkpoint(self) -> None:
        """Go on from the checkpoint, or from the start where the run was stopped before its first one.

        Raises:
            ValueError: the pairs are no longer the same.
        """
        path = self.folder.path / CHECKPOINT
        if path.is_file():
            state = torch.load(path, map_location="cpu", weights_only=True)
            if state.pop("pairs") != fingerprint(self.parts.pairs):
                raise ValueError(f"{self.settings.dataset} is no longer what the run in {self.folder.path} began with")
            self.learner.load_state_dict(state)
        kept = [row for row in self.folder.rows(METRICS) if row["step"] <= self.learner.step]
        replace_text(self.folder.path / METRICS, "".join(json.dumps(row) + "\n" for row in kept))

    def _opening(self) -> None:
        settings, pairs = self.settings, self.parts.pairs
        shared = {pair.prompt for pair in pairs.train} & {pair.prompt for pair in pairs.held_out}
        self.screen.say(
            f"reward model {settings.model} on {len(pairs.train)} pairs of {settings.dataset}, seed"
            f" {self.learner.config.seed}, {self.learner.total} steps of {settings.config.batch_size} pairs; held out:"
            f" {pairs.source}" + (f"; {len(shared)} of their prompts are learned from as well" if shared else "")
        )

    def _closing(self, found: dict[str, Any]) -> None:
        right = found["right"]
        self.screen.say("held-out pairs, share right ± standard error")
        for name, words in (
            ("reward_model", f"reward model, on {right['reward_model']['pairs']} pairs"),
            ("longer_is_better", "longer completion preferred"),
            ("difference", "difference"),
            (
                "chosen_is_shorter",
                f"reward model, on the {right['chosen_is_shorter']['pairs']} whose chosen is shorter",
            ),
        ):
            self.screen.say(f"  {in_words(right[name]):15s}  {words}")
        self.screen.say(
            f"reward model: {self.folder.path} (use it with --reward preference --reward-arg"
            f" preference.model={self.folder.path})"
        )


def in_words(figure: Mapping[str, Any]) -> str:
    """A share with its standard error."""
    if figure["mean"] is None:
        return "none"
    return f"{figure['mean']:.3f}" + ("" if figure["standard_error"] is None else f" ± {figure['standard_error']:.3f}")


def loss_of(margins: Margins) -> float:
    """The mean of −log σ of N margins, in nats."""
    return float(np.logaddexp(0.0, -margins).mean())


def fingerprint(pairs: PairData) -> str:
    """A hash of all pairs, in order."""
    content = [[(pair.prompt, pair.chosen, pair.rejected) for pair in part] for part in (pairs.train, pairs.held_out)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
