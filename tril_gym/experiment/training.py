"""A training run: evaluate, train, evaluate again and report; with checkpoints and metrics in a run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

from tril_gym.agents.algorithms.training_loop import Report
from tril_gym.experiment.build import RunComponents, build_run, restore_run
from tril_gym.experiment.config import RunConfig, check_unchanged, saved_config, with_changes
from tril_gym.experiment.evaluation import sample_texts
from tril_gym.experiment.held_out import HeldOut, kl_warning_of
from tril_gym.experiment.lock import LockedError
from tril_gym.experiment.plots import draw_curve
from tril_gym.experiment.run_folder import CONFIG, REWARD, RunFolder
from tril_gym.experiment.text_quality import training_words
from tril_gym.experiment.tracking import Tracker
from tril_gym.experiment.trust import check_trusted, masked
from tril_gym.utils.console import (
    RunConsole,
    comparison_table,
    metrics_line,
    profile_table,
    sample_line,
    samples_table,
)
from tril_gym.utils.interrupt import Interrupted, StopRequest, stop_at_once, stop_signal
from tril_gym.utils.processes import check_single_process
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
        Interrupted: a signal such as Ctrl-C asked for a stop; the iteration in progress is complete and saved.
        Exception: a part of the run failed; the notes of the exception say what is saved and how to go on.
    """
    return new_run(config, output_dir, track=track, console=console).run(profile=profile)


def resume(
    output_dir: str | Path,
    *,
    track: str | None = None,
    console: RunConsole | None = None,
    profile: bool = False,
    trust_code: bool = False,
    force_unlock: bool = False,
    **settings: Any,
) -> Result:
    """Continue the run in a folder from its last checkpoint, as if it had never stopped; without one start it over.

    Args:
        output_dir: the run folder.
        track: as in `train`, as the following ones.
        console: prints the progress.
        profile: measure memory.
        trust_code: also run code that only the settings of the folder name: functions, modules and servers.
        force_unlock: take the folder from another process that seems to use it.
        settings: those of `MAY_CHANGE`, such as the total number of `iterations`; and what a folder does not hold, such
            as a key in `env_args`.

    Raises:
        ValueError: there is no run to resume, its settings name code and are not trusted, or `iterations` exceeds its
            learning-rate schedule.
        Interrupted: as in `train`, as other exceptions.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    run = resumed_run(output_dir, given, track=track, console=console, trust_code=trust_code, force_unlock=force_unlock)
    return run.run(profile=profile)


def new_run(
    config: RunConfig,
    output_dir: str | Path,
    *,
    track: str | None = None,
    console: RunConsole | None = None,
    force_unlock: bool = False,
) -> Run:
    """Return a run that is ready to start in a new folder. Nothing is written before all settings are checked."""
    folder = RunFolder(output_dir)
    folder.require_empty()
    check_single_process()
    tracker = Tracker(track)  # before anything that takes long
    with cpu_threads(config.cpu_threads):
        components = build_run(config)
        folder.create(force_unlock=force_unlock)
        try:
            write_beginning(folder, components)
            return Run(folder, components, tracker, console or RunConsole())
        except BaseException:  # including Ctrl-C while a reward is fitted
            folder.remove()
            raise


def resumed_run(
    output_dir: str | Path,
    given: Mapping[str, Any],
    *,
    algorithm: str | None = None,
    track: str | None = None,
    console: RunConsole | None = None,
    trust_code: bool = False,
    force_unlock: bool = False,
) -> Run:
    """Return the run of a folder as its last checkpoint left it, or at its beginning where it has none.

    Args:
        output_dir: the run folder.
        given: settings that the user names; they may differ from the run's only for `MAY_CHANGE`.
        algorithm: the algorithm that the user names.
        track: as of `resume`, as the following ones.
        console: as of `resume`.
        trust_code: as of `resume`.
        force_unlock: as of `resume`.
    """
    folder, console = RunFolder(output_dir), console or RunConsole()
    config = saved_config(folder, given)
    check_single_process()
    check_unchanged(config, given, algorithm=algorithm, folder=folder.path)
    check_trusted(asdict(config), given, where=folder.path / CONFIG, trust_code=trust_code)
    config, tracker = with_changes(config, given), Tracker(track)
    folder.lock(force=force_unlock)
    try:
        with cpu_threads(config.cpu_threads):
            checkpoint = folder.newest_checkpoint()
            if checkpoint is None:
                console.say(f"{folder.path} has no checkpoint yet: its run starts over")
                components = build_run(config)
                folder.clear_results()
                write_beginning(folder, components)
            else:
                components = restore_run(config, checkpoint, folder.path / REWARD)
                folder.write_config(asdict(config))
                folder.truncate_after(components.agent.iteration)
                folder.prune_checkpoints(components.agent.iteration, keep=config.keep)
            return Run(folder, components, tracker, console)
    except BaseException:
        folder.unlock()
        raise


def write_beginning(folder: RunFolder, components: RunComponents) -> None:
    """Write what a run folder has before the first iteration; the settings first, so that it can be resumed."""
    folder.write_config(asdict(components.config))
    save_rewards(components, folder.path / REWARD)
    if (words := training_words(components.envs)) is not None:
        folder.write_words(words)


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
        # Iterations whose metrics are written, and that of the newest checkpoint; None before the training begins.
        self._recorded = self.agent.iteration
        self._saved: int | None = self.agent.iteration if folder.checkpoints() else None

    def run(self, *, profile: bool = False) -> Result:
        """Evaluate, train, evaluate and report; with `profile`, also report time and memory of an iteration.

        An exception says in its notes what is saved and how to go on.
        """
        try:
            with cpu_threads(self.config.cpu_threads), stop_at_once():
                return self._run(profile)
        except Interrupted:
            raise
        except (Exception, KeyboardInterrupt) as error:
            error.add_note(self._way_out(error))
            raise
        finally:
            self.tracker.close()
            self.folder.unlock()

    def _run(self, profile: bool) -> Result:
        self.tracker.begin(self.folder.path, masked(asdict(self.config)))
        self._announce()
        self.held_out.evaluate_before()
        if self._saved is None:
            self._save()
        total, done = self.config.iterations, self.agent.iteration
        self._evaluate_if_due(done)  # a resumed run that once ended here
        with self.console.progress("training", total=total, completed=done) as show, stop_signal() as asked:
            callback = partial(self._after_iteration, show, asked)
            self.agent.learn(max(0, total - done), callback=callback, profile=profile)
        after, verdict = self.held_out.evaluate_after(seconds=self._seconds())
        result = Result(self.folder.path, self.held_out.before, after, verdict)
        self._show_results(result, profile)
        return result

    def _way_out(self, error: BaseException) -> str:
        """Save what is complete, unless a signal stops at once, and say what is saved and how to go on."""
        kept = "" if isinstance(error, KeyboardInterrupt | LockedError) else self._rescue()
        if self._saved is None:
            kept += "no checkpoint was written yet, so the run will start over"
        else:
            kept += f"the newest checkpoint is of iteration {self._saved} of {self.config.iterations}"
        return f"{kept}; to continue, use --output-dir {self.folder.path} --resume"

    def _rescue(self) -> str:
        """Save the agent where it is whole and newer than its checkpoint; return why not where that fails."""
        is_new = self._saved is not None and self._saved < self.agent.iteration
        if not (is_new and self.agent.is_whole and self._recorded == self.agent.iteration):
            return ""
        try:
            self._save()
        except (Exception, KeyboardInterrupt) as error:
            return f"iteration {self.agent.iteration} could not be saved ({error}), "
        return ""

    def _announce(self) -> None:
        config, agent = self.config, self.agent
        guide = f", guide {config.guide or config.policy}" if agent.takes_guide else ""
        self.console.say(
            f"{config.algorithm} on {config.env}: policy {config.policy}{guide}, seed {config.seed},"
            f" {config.iterations} iterations of {agent.episodes} texts; held out: {self.components.eval_description}"
        )

    def _after_iteration(self, show: Callable[[int], None], asked: StopRequest, report: Report) -> None:
        self._record(report)
        self._evaluate_if_due(report.iteration)
        self._warn_about_kl(report)
        show(report.iteration)
        self._save_or_stop(report.iteration, asked)

    def _record(self, report: Report) -> None:
        self.folder.append("metrics.jsonl", report.metrics)
        self.tracker.log(report.iteration, report.metrics)
        self.console.say(metrics_line(report.metrics))
        if report.iteration == 1 or report.iteration % SAMPLES_EVERY == 0:
            samples = sample_texts(report.trajectories, range(min(SAMPLES, len(report.trajectories))))
            self.folder.append("samples.jsonl", *({"iteration": report.iteration} | sample for sample in samples))
            for sample in samples:
                self.console.say(sample_line(sample))
        self._recorded = report.iteration

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

    def _save_or_stop(self, iteration: int, asked: StopRequest) -> None:
        is_last = iteration == self.config.iterations
        if is_last or asked() or iteration % self.config.save_every == 0:
            self._save()
        if asked.number is not None:
            rest = ", before the evaluation" if is_last else ""
            raise Interrupted(
                f"stopped after iteration {iteration} of {self.config.iterations}{rest}; to continue, use"
                f" --output-dir {self.folder.path} --resume",
                asked.number,
            )

    def _save(self) -> None:
        self.folder.save_checkpoint(self.agent.iteration, self.agent.save, keep=self.config.keep)
        self._saved = self.agent.iteration

    def _seconds(self) -> float:
        """Return the duration of all iterations, those before a resumed run was stopped included."""
        rows = self.folder.rows("metrics.jsonl")
        return sum(value or 0.0 for row in rows for name, value in row.items() if name.startswith("time/"))

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
        try:
            draw_curve(
                self.folder.path / "curve.png",
                title=f"{config.algorithm} on {config.env}, seed {config.seed}",
                reward=f"reward of a text{describe_reward(self.components.envs)}",
                rows=rows,
                held_out=[ends[0], *self.held_out.rows(), ends[1]],
                kl_target=config.hyperparameters.get("kl_target"),
            )
        except Exception as error:  # of a library or the disk: the run is complete without a picture
            self.console.say(f"warning: curve.png could not be drawn ({type(error).__name__}: {error})")


def describe_reward(envs: VectorEnv) -> str:
    """Return the terms of an environment's reward as a sum, such as ": 0.1 cider_d + rouge_l"; "" without terms."""
    parts = [term.name if term.weight == 1 else f"{term.weight:g} {term.name}" for term in terms(envs)]
    return f": {' + '.join(parts)}" if parts else ""
