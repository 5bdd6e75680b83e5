"""A run in its folder: evaluate, train, evaluate again and report; and what it leaves where it fails or is stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.vector import VectorEnv

from tril_gym import __version__
from tril_gym.agents.actors.references import References
from tril_gym.agents.algorithms.callback import Callback
from tril_gym.agents.algorithms.progress import ProgressCallback
from tril_gym.agents.algorithms.report import Report
from tril_gym.experiment.build import RunComponents
from tril_gym.experiment.evaluation import HELD_OUT, flat_metrics
from tril_gym.experiment.held_out import HeldOut, kl_warning_of
from tril_gym.experiment.lock import LockedError
from tril_gym.experiment.plots import draw_curve
from tril_gym.experiment.run_folder import RunFolder, to_resume
from tril_gym.experiment.tracking import SAMPLES, Tracker, is_sampled, texts_apart
from tril_gym.experiment.trust import masked
from tril_gym.experiment.verdict import Outcome
from tril_gym.utils.config_fields import flag_of
from tril_gym.utils.console import RunConsole
from tril_gym.utils.interrupt import Interrupted, StopRequest, stop_at_once, stop_signal
from tril_gym.utils.tables import comparison_table, metrics_line, profile_table, sample_line, samples_table
from tril_gym.utils.threads import cpu_threads
from tril_gym.wrappers.reward_term import describe_terms, terms

if TYPE_CHECKING:
    from tril_gym.agents.algorithms.agent import Agent

ADVICE = "docs/when_it_does_not_learn.md"
WARM_UPS = ("critic_warmup", "discriminator_warmup")  # iterations without a step of the policy
EQUAL_ITERATIONS = 10  # at the beginning of a run, whose texts must not all have the same reward


@dataclass(frozen=True)
class Result:
    """The outcome of a run: its folder, and what is in its `evaluation.json`."""

    folder: Path
    before: dict[str, Any]  # the evaluation of the held-out examples before training
    after: dict[str, Any]
    verdict: dict[str, Any]  # whether the reward of these examples rose; see `verdict_of`


class Run:
    """A run in its folder, from the current iteration of its agent."""

    def __init__(self, folder: RunFolder, components: RunComponents, tracker: Tracker, console: RunConsole) -> None:
        self.folder, self.components, self.tracker, self.console = folder, components, tracker, console
        self.config, self.agent, self.ranks = components.config, components.agent, components.agent.ranks
        self.held_out = HeldOut(folder, components, self.console)
        self.has_warned = False
        self.has_contrast = self.agent.iteration > 0  # two texts had different rewards; of a resumed run unknown
        # The texts of an iteration are then the references, whose reward says nothing about the policy.
        self.imitates = isinstance(self.agent.plan(0).rollout, References)
        # Iterations whose metrics are written, and that of the newest checkpoint; None before the training begins.
        self._recorded = self.agent.iteration
        has_checkpoint = self.ranks.any(bool(folder.checkpoints()))  # only the main process has them
        self._saved: int | None = self.agent.iteration if has_checkpoint else None

    def run(self, *, profile: bool = False) -> Result:
        """Evaluate, train, evaluate and report; with `profile`, also report time and memory of an iteration.

        An exception says in its notes what is saved and how to continue.
        """
        try:
            with cpu_threads(self.config.cpu_threads), stop_at_once():
                return self._run(profile)
        except Interrupted:
            raise
        except (Exception, KeyboardInterrupt) as error:
            if self.ranks.is_main:
                error.add_note(self._way_out(error))
            raise
        finally:
            self.tracker.close()
            self.folder.unlock()
            if not self.ranks.is_main:
                self.folder.remove_copy()

    def _run(self, profile: bool) -> Result:
        self._announce()
        self._warn_about_warm_ups()
        is_new = self.agent.iteration == 0
        self.tracker.begin()
        self.held_out.evaluate_before()
        if is_new:
            self._publish("before", 0, self.held_out.before)
        if self._saved is None:
            self._save()
        total, done = self.config.iterations, self.agent.iteration
        self._evaluate_if_due(done)  # a resumed run that once ended here
        if done < total:
            self.console.activity.begin(f"iteration {done + 1} of {total}")
            with stop_signal() as asked:
                self.agent.learn(total - done, callbacks=self._callbacks(asked), progress=False, profile=profile)
        after, verdict = self.held_out.evaluate_after(seconds=self._seconds())
        self._publish("after", self.agent.iteration, after)
        result = Result(self.folder.origin, self.held_out.before, after, verdict)
        self._show_results(result, profile)
        return result

    def _way_out(self, error: BaseException) -> str:
        """Save what is complete, unless a signal stops at once, and say what is saved and how to continue."""
        kept = "" if isinstance(error, KeyboardInterrupt | LockedError) else self._rescue()
        if self._saved is None:
            kept += "no checkpoint was written yet, so the run will start over"
        else:
            kept += f"the newest checkpoint is of iteration {self._saved} of {self.config.iterations}"
        return f"{kept}; to continue, use {to_resume(self.folder.path)}"

    def _rescue(self) -> str:
        """Save the agent where it is whole and newer than its checkpoint; return why not where that fails."""
        if self.ranks.shards or self.ranks.shards_optimizer:  # the others, who have the rest, may be gone
            return ""
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
        begun = f", the first {agent.iteration} done before" if agent.iteration else ""
        self.console.say(
            f"{config.algorithm} on {config.env}: policy {config.policy}{guide}, seed {config.seed},"
            f" {config.iterations} iterations of {agent.episodes} texts{begun}; held out:"
            f" {self.components.eval_description}"
        )
        self.console.event(
            "start",
            folder=str(self.folder.path),
            version=__version__,
            held_out=self.components.eval_description,
            iteration=agent.iteration,
            config=masked(asdict(config)),
        )

    def _publish(self, when: str, iteration: int, evaluation: Mapping[str, Any]) -> None:
        """Send the metrics of an evaluation to the tracker and the console."""
        metrics = evaluation["metrics"]
        self.tracker.log({HELD_OUT + name: value for name, value in flat_metrics(metrics).items()}, iteration)
        self.console.event("evaluation", when=when, iteration=iteration, metrics=metrics)

    def _callbacks(self, asked: StopRequest) -> list[Callback | Callable[[Report], None]]:
        """Return what follows each iteration. It is saved last, so that a checkpoint has all files of its iteration."""
        return [
            self._record,
            lambda report: self._evaluate_if_due(report.iteration),
            self._warn_about_kl,
            self._warn_about_equal_rewards,
            ProgressCallback(self.console, has_table=False),
            lambda report: self._save_or_stop(report.iteration, asked),
        ]

    def _record(self, report: Report) -> None:
        self.folder.append("metrics.jsonl", report.metrics)
        self.tracker.log(report.metrics, report.iteration)
        self.console.event("iteration", **report.metrics)
        has_reward = self.held_out.is_scored and not self.imitates
        self.console.say(metrics_line(report.metrics, has_reward=has_reward))
        if is_sampled(report.iteration):
            samples = report.texts(SAMPLES)
            self.folder.append("samples.jsonl", *({"iteration": report.iteration} | sample for sample in samples))
            self.tracker.log_texts(texts_apart(report.trajectories, self.agent.layout, SAMPLES), report.iteration)
            for sample in () if self.imitates else samples:
                self.console.say(sample_line(sample))
        self._recorded = report.iteration

    def _evaluate_if_due(self, iteration: int) -> None:
        if self.held_out.is_due(iteration):
            row = self.held_out.evaluate_during(iteration)
            self._publish("during", iteration, row)
            self.console.say(f"      after iteration {iteration}: {row['verdict']['sentence']}")

    def _warn_about_warm_ups(self) -> None:
        """Warn of a run that ends in its warm-ups: its policy stays what it was, and so do its held-out texts."""
        numbers, total = self.config.hyperparameters, self.config.iterations
        lengths = {name: numbers[name] for name in WARM_UPS if numbers.get(name)}
        if lengths and not _policy_learns(self.agent, total, **lengths):
            named = ", ".join(f"{flag_of(name)} {length}" for name, length in lengths.items())
            none = ", ".join(f"{flag_of(name)} 0" for name in lengths)
            self.console.warn(
                f"warning: the policy takes no step, as --iterations {total} is all warm-up with {named}, in which only"
                f" critics and discriminators learn; raise --iterations, or use {none}"
            )

    def _warn_about_kl(self, report: Report) -> None:
        kl, bound = report.metrics.get("kl", 0.0), self.config.kl_warning
        if self.has_warned or not kl > bound:  # nearly every iteration: the evaluations need not be read
            return
        rows = self.held_out.rows()
        outcome: Outcome | None = None if self.held_out.is_scored else "no reward"
        if rows:
            outcome = rows[-1]["verdict"]["outcome"]
        names = self.config.hyperparameters
        if warning := kl_warning_of(report.iteration, kl, bound=bound, outcome=outcome, settings=names):
            self.console.warn(warning)
            self.has_warned = True

    def _warn_about_equal_rewards(self, report: Report) -> None:
        mean, deviation = report.metrics["reward/mean"], report.metrics["reward/std"]
        self.has_contrast |= self.agent.episodes == 1 or deviation > 1e-6 * abs(mean)
        is_time = report.iteration == min(EQUAL_ITERATIONS, self.config.iterations)
        if is_time and not self.has_contrast and self.agent.learns_from_rewards:
            self.console.warn(
                f"warning: all texts of the first {report.iteration} iterations have the same reward, {mean:g}, and"
                f" nothing can be learned from it; for what helps see {ADVICE}"
            )

    def _save_or_stop(self, iteration: int, asked: StopRequest) -> None:
        self.console.activity.begin(f"iteration {iteration + 1} of {self.config.iterations}")
        is_last = iteration == self.config.iterations
        number = next((number for number in self.ranks.gather(asked.number) if number is not None), None)
        if is_last or number is not None or iteration % self.config.save_every == 0:
            self._save()
        if number is not None:
            rest = ", before the evaluation" if is_last else ""
            raise Interrupted(
                f"stopped after iteration {iteration} of {self.config.iterations}{rest}; to continue, use"
                f" {to_resume(self.folder.origin)}",
                number,
            )

    def _save(self) -> None:
        if self.ranks.is_main:
            self.folder.save_checkpoint(self.agent.iteration, self.agent.save, keep=self.config.keep)
        else:
            self.agent.save(self.folder.path)  # it has a part of the models
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
        self.console.say(f"run folder: {folder} (curve: {folder / 'curve.png'}, policy: {folder / 'policy'})")
        if (best := self.held_out.best_sentence()) is not None:
            self.console.say(best)
        if signs := result.verdict["signs"]:
            self.console.say(f"signs of a known cause; {ADVICE} has more about them:")
            for sign in signs:
                self.console.say(f"  {sign}")
        self.console.say(result.verdict["sentence"])
        self.console.event("end", folder=str(folder), iteration=self.agent.iteration, verdict=result.verdict)

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
                shows_training=not self.imitates,
            )
        except Exception as error:  # of a library or the disk: the run is complete without a picture
            self.console.warn(f"warning: curve.png could not be drawn ({type(error).__name__}: {error})")


def _policy_learns(agent: Agent, iterations: int, *, critic_warmup: int = 0, discriminator_warmup: int = 0) -> bool:
    """Return whether an iteration is after all warm-ups; each critic has one of its own."""
    updates: Counter[str] = Counter()  # of a critic, by owner
    for iteration in range(iterations):
        owner = agent.plan(iteration).critic
        if updates[owner] >= critic_warmup and iteration >= discriminator_warmup:
            return True
        updates[owner] += 1
    return False


def describe_reward(envs: VectorEnv) -> str:
    """Return the terms of an environment's reward as a sum, such as ": 0.1 cider_d + rouge_l"; "" without terms."""
    found = terms(envs)
    return f": {describe_terms(found)}" if found else ""
