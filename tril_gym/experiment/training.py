"""A training run: evaluate, train, evaluate again and report; with checkpoints and metrics in a run folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

from tril_gym.agents.algorithms.training_loop import Report
from tril_gym.experiment.build import RunComponents, build_run, restore_run
from tril_gym.experiment.config import RunConfig, saved_config, with_iterations
from tril_gym.experiment.evaluation import sample_texts
from tril_gym.experiment.held_out import HeldOut, kl_warning_of
from tril_gym.experiment.plots import draw_curve
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.experiment.text_quality import training_words
from tril_gym.experiment.tracking import Tracker
from tril_gym.utils.console import (
    RunConsole,
    comparison_table,
    metrics_line,
    profile_table,
    sample_line,
    samples_table,
)
from tril_gym.utils.interrupt import Interrupted, stop_signal
from tril_gym.utils.threads import cpu_threads
from tril_gym.wrappers.reward_term import terms

SAMPLES_EVERY = 10  # iterations between sample texts
SAMPLES = 3  # texts


@dataclass(frozen=True)
class Result:
    """The outcome of a run: its folder, and what is in its `evaluation.json`."""

    folder: Path
    before: dict[str, Any]  # the evaluation of the held-out examples before training
    after: dict[str, Any]
    verdict: dict[str, Any]  # whether the reward of these examples rose; see `verdict_of`


def train(
    config: RunConfig,
    output_dir: str | Path,
    *,
    track: str | None = None,
    console: RunConsole | None = None,
    profile: bool = False,
) -> Result:
    """Train an agent in a new run folder.

    Args:
        config: all settings; see `configure`.
        output_dir: an empty or new folder.
        track: a tracker of accelerate to also send metrics to, such as "wandb".
        console: prints the progress; by default on standard output.
        profile: also measure the peak memory of each part of an iteration.

    Raises:
        ValueError: a setting is wrong; nothing has been written.
        Interrupted: the user pressed Ctrl-C; the iteration in progress is complete and saved.
    """
    return new_run(config, output_dir, track=track, console=console).run(profile=profile)


def resume(
    output_dir: str | Path,
    *,
    iterations: int | None = None,
    track: str | None = None,
    console: RunConsole | None = None,
    profile: bool = False,
) -> Result:
    """Continue the run in a folder from its last checkpoint, as if it had never stopped.

    Args:
        output_dir: the run folder.
        iterations: the total number of iterations; by default as before.
        track: as in `train`, as the following ones.
        console: prints the progress.
        profile: measure memory.

    Raises:
        ValueError: there is no run to resume, or `iterations` exceeds its learning-rate schedule.
        Interrupted: the user pressed Ctrl-C.
    """
    return resumed_run(output_dir, iterations=iterations, track=track, console=console).run(profile=profile)


def new_run(
    config: RunConfig, output_dir: str | Path, *, track: str | None = None, console: RunConsole | None = None
) -> Run:
    """Return a run that is ready to start in a new folder. Nothing is written before all settings are checked."""
    folder = RunFolder(output_dir)
    folder.require_empty()
    with cpu_threads(config.cpu_threads):
        tracker = Tracker(track)  # before anything that takes long
        components = build_run(config)
        folder.create()
        try:
            folder.write_config(asdict(components.config))
            save_rewards(components, folder.path / "reward")
            if (words := training_words(components.envs)) is not None:
                folder.write_words(words)
            return Run(folder, components, tracker, console or RunConsole())
        except BaseException:  # including Ctrl-C while a reward is fitted
            folder.remove()
            raise


def resumed_run(
    output_dir: str | Path,
    *,
    iterations: int | None = None,
    track: str | None = None,
    console: RunConsole | None = None,
) -> Run:
    """Return the run of a folder as its last checkpoint left it."""
    folder = RunFolder(output_dir)
    config = with_iterations(saved_config(folder), iterations)
    with cpu_threads(config.cpu_threads):
        tracker = Tracker(track)
        components = restore_run(config, folder.last_checkpoint(), folder.path / "reward")
        folder.write_config(asdict(config))
        folder.truncate_after(components.agent.iteration)
        return Run(folder, components, tracker, console or RunConsole())


def save_rewards(components: RunComponents, folder: Path) -> None:
    """Save what the reward terms were fitted to, so that a text has the same score wherever it is scored."""
    for term in terms(components.envs):
        term_folder = folder / term.name
        term_folder.mkdir(parents=True, exist_ok=True)
        term.score.save(term_folder)
        if not any(term_folder.iterdir()):  # nothing was fitted
            term_folder.rmdir()


class Run:
    """A run in its folder, from the current iteration of its agent."""

    def __init__(self, folder: RunFolder, components: RunComponents, tracker: Tracker, console: RunConsole) -> None:
        self.folder, self.components, self.tracker, self.console = folder, components, tracker, console
        self.config, self.agent = components.config, components.agent
        self.held_out = HeldOut(folder, components, self.console)
        self.has_warned = False

    def run(self, *, profile: bool = False) -> Result:
        """Evaluate, train, evaluate and report; with `profile`, also report time and memory of an iteration."""
        with cpu_threads(self.config.cpu_threads):
            self.tracker.begin(self.folder.path, asdict(self.config))
            self._announce()
            self.held_out.evaluate_before()
            if not self.folder.checkpoints():
                self._save()
            total, done = self.config.iterations, self.agent.iteration
            self._evaluate_if_due(done)  # a resumed run that once ended here
            with self.console.progress("training", total=total, completed=done) as show, stop_signal() as asked:
                callback = partial(self._after_iteration, show, asked)
                self.agent.learn(max(0, total - done), callback=callback, profile=profile)
            after, verdict = self.held_out.evaluate_after(seconds=self._seconds())
            self.tracker.close()
            result = Result(self.folder.path, self.held_out.before, after, verdict)
            self._show_results(result, profile)
        return result

    def _announce(self) -> None:
        config, agent = self.config, self.agent
        guide = f", guide {config.guide or config.policy}" if agent.takes_guide else ""
        self.console.say(
            f"{config.algorithm} on {config.env}: policy {config.policy}{guide}, seed {config.seed},"
            f" {config.iterations} iterations of {agent.episodes} texts; held out: {self.components.eval_description}"
        )

    def _after_iteration(self, show: Callable[[int], None], asked: Callable[[], bool], report: Report) -> None:
        self._record(report)
        self._evaluate_if_due(report.iteration)
        self._warn_about_kl(report)
        show(report.iteration)
        self._save_or_stop(report.iteration, asked)

    def _record(self, report: Report) -> None:
        self.folder.append("metrics.jsonl", {name: _finite(value) for name, value in report.metrics.items()})
        self.tracker.log(report.iteration, report.metrics)
        self.console.say(metrics_line(report.metrics))
        if report.iteration == 1 or report.iteration % SAMPLES_EVERY == 0:
            samples = sample_texts(report.trajectories, range(min(SAMPLES, len(report.trajectories))))
            self.folder.append("samples.jsonl", *({"iteration": report.iteration} | sample for sample in samples))
            for sample in samples:
                self.console.say(sample_line(sample))

    def _evaluate_if_due(self, iteration: int) -> None:
        if self.held_out.is_due(iteration):
            row = self.held_out.evaluate_during(iteration)
            for decoding, metrics in row["metrics"].items():
                self.tracker.log(iteration, {f"held_out/{decoding}/{name}": value for name, value in metrics.items()})
            self.console.say(f"      after iteration {iteration}: {row['verdict']['sentence']}")

    def _warn_about_kl(self, report: Report) -> None:
        kl, bound = report.metrics.get("kl", 0.0), self.config.kl_warning
        if self.has_warned or not kl > bound:  # nearly every iteration: the evaluations need not be read
            return
        rows = self.held_out.rows()
        outcome = rows[-1]["verdict"]["outcome"] if rows else None
        if warning := kl_warning_of(report.iteration, kl, bound=bound, outcome=outcome):
            self.console.say(warning)
            self.has_warned = True

    def _save_or_stop(self, iteration: int, asked: Callable[[], bool]) -> None:
        is_last = iteration == self.config.iterations
        if is_last or asked() or iteration % self.config.save_every == 0:
            self._save()
        if asked() and not is_last:
            self.tracker.close()
            raise Interrupted(
                f"stopped after iteration {iteration} of {self.config.iterations}; to continue, use"
                f" --output-dir {self.folder.path} --resume"
            )

    def _save(self) -> None:
        self.folder.save_checkpoint(self.agent.iteration, self.agent.save)

    def _seconds(self) -> float:
        """Return the duration of all iterations, those before a resumed run was stopped included."""
        rows = self.folder.rows("metrics.jsonl")
        return sum(value for row in rows for name, value in row.items() if name.startswith("time/"))

    def _show_results(self, result: Result, profile: bool) -> None:
        rows, folder = self.folder.rows("metrics.jsonl"), self.folder.path
        self._draw_curve(rows, result)
        if profile and rows:
            self.console.show(profile_table(rows))
        self.console.show(samples_table(result.before["samples"], result.after["samples"]))
        self.console.show(comparison_table(result.before, result.after))
        self.console.say(f"run folder: {folder} (curve: {folder / 'curve.png'}, policy: {folder}/checkpoints/*/policy)")
        self.console.say(result.verdict["sentence"])

    def _draw_curve(self, rows: list[dict[str, Any]], result: Result) -> None:
        ends = ({"iteration": 0} | result.before, {"iteration": self.agent.iteration} | result.after)
        config = self.config
        draw_curve(
            self.folder.path / "curve.png",
            title=f"{config.algorithm} on {config.env}, seed {config.seed}",
            reward=f"reward of a text{describe_reward(self.components.envs)}",
            rows=rows,
            held_out=[ends[0], *self.held_out.rows(), ends[1]],
            kl_target=config.hyperparameters.get("kl_target"),
        )


def describe_reward(envs: VectorEnv) -> str:
    """Return the terms of an environment's reward as a sum, such as ": 0.1 cider_d + rouge_l"; "" without terms."""
    parts = [term.name if term.weight == 1 else f"{term.weight:g} {term.name}" for term in terms(envs)]
    return f": {' + '.join(parts)}" if parts else ""


def _finite(value: float) -> float | None:
    """Return None for NaN and infinity, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
