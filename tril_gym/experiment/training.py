"""A run: an agent's loop with evaluation before and after, checkpoints, tracking, and a report at the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tril_gym.agents.algorithms.training_loop import Report
from tril_gym.experiment.build import Parts, build, restore
from tril_gym.experiment.config import RunConfig, saved_config, with_iterations
from tril_gym.experiment.evaluation import Evaluation, evaluate, sample_texts
from tril_gym.experiment.report import RunConsole, draw_curve
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.experiment.tracking import Tracker
from tril_gym.utils.interrupt import Interrupted, stop_signal
from tril_gym.wrappers.text_reward import terms

SHOWN_EVERY = 10  # iterations between sample texts


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    folder: Path
    before: dict[str, Any]
    after: dict[str, Any]


def prepare(config: RunConfig, output_dir: str | Path, *, track: str | None, screen: RunConsole) -> Run:
    """A new run in a new folder. Nothing is written before everything is known to be right."""
    folder = RunFolder(output_dir)
    folder.require_empty()
    parts = build(config)
    tracker = Tracker(track)
    folder.create()
    try:
        folder.write_json("config.json", config.as_json())
        save_rewards(parts, folder.path / "reward")
        return Run(folder, parts, tracker, screen)
    except BaseException:  # Ctrl-C while a reward is fitted, too
        folder.remove()
        raise


def prepare_resumed(output_dir: str | Path, *, iterations: int | None, track: str | None, screen: RunConsole) -> Run:
    """The run in a folder, as its last checkpoint left it."""
    folder = RunFolder(output_dir)
    config = with_iterations(saved_config(folder), iterations)
    parts = restore(config, folder.last_checkpoint(), folder.path / "reward")
    tracker = Tracker(track)
    folder.write_json("config.json", config.as_json())
    folder.truncate_after(parts.agent.iteration)
    return Run(folder, parts, tracker, screen)


def save_rewards(parts: Parts, folder: Path) -> None:
    """Write what the reward terms were fitted to, so that the same text has the same score wherever it is scored."""
    for term in terms(parts.envs):
        save = getattr(term.score, "save", None)  # only scores that fit have one
        if save is not None:
            (folder / term.name).mkdir(parents=True, exist_ok=True)
            save(folder / term.name)


class Run:
    """A run in its folder, from wherever its agent stands."""

    def __init__(self, folder: RunFolder, parts: Parts, tracker: Tracker, screen: RunConsole) -> None:
        self.folder, self.parts, self.tracker, self.screen = folder, parts, tracker, screen
        self.config, self.agent = parts.config, parts.agent
        self.eval_envs = parts.eval_envs(folder.path / "reward")

    def go(self, *, profile: bool = False) -> Result:
        """Evaluate, learn, evaluate, report; with `profile` say where time and memory went, too."""
        self.tracker.begin(self.folder.path, self.config.as_json())
        self.screen.opening(self.config, self.parts)
        known = self.folder.path / "evaluation.json"
        before = self.folder.read_json(known.name)["before"] if known.is_file() else self._evaluate("before").as_json()
        self._write_evaluation(before, None)
        if not self.folder.checkpoints():
            self._save()
        left = self.config.iterations - self.agent.iteration
        with self.screen.learning(self.config.iterations, self.agent.iteration), stop_signal() as asked:
            self.agent.learn(max(0, left), after=lambda report: self._after(report, asked), profile=profile)
        after = self._evaluate("after").as_json()
        self._write_evaluation(before, after)
        self.tracker.close()
        rows = self.folder.rows("metrics.jsonl")
        draw_curve(self.folder.path / "curve.png", rows, before, after)
        if profile:
            self.screen.profile(rows)
        self.screen.closing(self.folder.path, before, after)
        return Result(self.folder.path, before, after)

    def _after(self, report: Report, asked: Callable[[], bool]) -> None:
        figures = {name: _plain(value) for name, value in report.metrics.items()}
        self.folder.append("metrics.jsonl", figures)
        self.tracker.log(report.iteration, report.metrics)
        self.screen.figures(report.metrics)
        if report.iteration == 1 or report.iteration % SHOWN_EVERY == 0:
            samples = sample_texts(report.trajectories, range(min(3, len(report.trajectories))))
            self.folder.append("samples.jsonl", *({"iteration": report.iteration} | sample for sample in samples))
            self.screen.samples(samples)
        last = report.iteration == self.config.iterations
        if last or asked() or report.iteration % self.config.save_every == 0:
            self._save()
        if asked() and not last:
            self.tracker.close()
            raise Interrupted(
                f"stopped after iteration {report.iteration} of {self.config.iterations}; go on with"
                f" --output-dir {self.folder.path} --resume"
            )

    def _save(self) -> None:
        self.folder.save_checkpoint(self.agent.iteration, self.agent.save)

    def _evaluate(self, when: str) -> Evaluation:
        count = self.config.eval_examples
        with self.screen.waiting(f"evaluating {when} training, at most {count} held-out examples"):
            return evaluate(
                self.agent.policy,
                self.eval_envs,
                seed=self.config.seed,
                ref_policy=self.agent.learner.ref_policy,
                count=count,
            )

    def _write_evaluation(self, before: dict[str, Any], after: dict[str, Any] | None) -> None:
        content = {"held_out": self.parts.held_out, "seed": self.config.seed, "before": before, "after": after}
        self.folder.write_json("evaluation.json", content)


def _plain(value: float) -> float | None:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
