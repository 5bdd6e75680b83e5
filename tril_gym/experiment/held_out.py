"""Evaluations of a run on its held-out examples: before, during and after training, each compared with the first."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from tril_gym.experiment.best import is_better, read_best, save_best
from tril_gym.experiment.build import RunComponents, build_run
from tril_gym.experiment.diagnosis import either, signs
from tril_gym.experiment.environments import warn_of_other_prompts
from tril_gym.experiment.evaluation import evaluate, fingerprint_of
from tril_gym.experiment.run_folder import BEST, EVALUATION, REWARD, RunFolder
from tril_gym.experiment.verdict import Outcome, floats_of, verdict_of
from tril_gym.utils.console import RunConsole

if TYPE_CHECKING:
    from tril_gym.agents.algorithms.agent import Agent

EVALUATIONS = "evaluations.jsonl"


class HeldOut:
    """Evaluate the policy of a run, and write the results into its folder.

    Evaluations have their own environment and generator, so that they do not change the training.

    Attributes:
        before: the evaluation before training, as `Evaluation.as_json` returns it; set by `evaluate_before`.
    """

    def __init__(self, folder: RunFolder, components: RunComponents, console: RunConsole) -> None:
        self.folder, self.components, self.console = folder, components, console
        self.config, self.agent = components.config, components.agent
        self.envs = components.eval_envs(folder.path / REWARD)
        chat = self.agent.layout.chat
        warn_of_other_prompts(self.envs, components.eval_description, learned_from_chats=chat)
        self.known_words = folder.read_words()
        self.is_scored = not self.agent.layout.reward_missing
        self.before: dict[str, Any] = {}

    def evaluate_before(self) -> None:
        """Evaluate the initial policy, or read the evaluation of a resumed run.

        Where a resumed run has none, the initial policy is made again, as it was made when the run began.

        Raises:
            ValueError: a resumed run has other examples than it had.
        """
        found = self._read_before()
        if self.agent.iteration > 0 and found is not None:
            self._check_examples(found)
        elif self.agent.iteration > 0:
            name = self.folder.path / EVALUATION
            self.console.warn(
                f"{name} has no evaluation before training: the initial policy is made again to repeat it"
            )
            found = self._announced("before", build_run(self.config, self.agent.ranks).agent)
        self.before = self._announced("before", self.agent) if found is None else found
        if self.agent.iteration < self.config.iterations or not self._has_after():
            self._write(None, None)  # a finished run keeps its figures until new ones replace them
        if self.agent.iteration == 0:
            self._keep_if_best(self.before)
        else:  # a run may have stopped between an evaluation and the saving of its policy
            for row in self.rows():
                if row["iteration"] == self.agent.iteration:
                    self._keep_if_best(row)

    def _read_before(self) -> dict[str, Any] | None:
        """Return the evaluation before training; None where it is missing or cannot be read."""
        try:
            found: dict[str, Any] = self.folder.read_json(EVALUATION)["before"]
            return found if {"metrics", "intervals", "samples", "rewards"} <= found.keys() else None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def _check_examples(self, before: dict[str, Any]) -> None:
        now = fingerprint_of(self.envs, self.config.eval_examples)
        if now is not None and now != before.get("examples", now):
            raise ValueError(
                f"the held-out examples, {self.components.eval_description}, are not those on which the policy was"
                " evaluated before training, so the two cannot be compared; restore the data that the run began with,"
                " or begin a new run in another folder"
            )

    def _has_after(self) -> bool:
        """Return whether there is an evaluation after training."""
        try:
            return bool(self.folder.read_json(EVALUATION)["after"])
        except (ValueError, KeyError, TypeError):
            return False

    def is_due(self, iteration: int) -> bool:
        """Return whether a policy of this number of iterations is evaluated during training, and has not been yet.

        The last one is evaluated after training.
        """
        every, total = self.config.eval_every, self.config.iterations
        if not (every and 0 < iteration < total and iteration % every == 0):
            return False
        return all(row["iteration"] != iteration for row in self.rows())

    def evaluate_during(self, iteration: int) -> dict[str, Any]:
        """Evaluate the policy after an iteration; return the row that was added to `evaluations.jsonl`."""
        found = self._evaluate(self.agent)
        row = {
            "iteration": iteration,
            "verdict": verdict_of(self.before, found, is_scored=self.is_scored),
            "metrics": found["metrics"],
            "intervals": found["intervals"],
        }
        self.folder.append(EVALUATIONS, row)
        self._keep_if_best(row)
        return row

    def evaluate_after(self, *, seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the evaluation of the trained policy, and the verdict on a training of that duration with signs."""
        after = self._announced("after", self.agent)
        verdict = verdict_of(self.before, after, seconds=seconds, is_scored=self.is_scored)
        rows = self.folder.rows("metrics.jsonl")
        verdict["signs"] = signs(
            self.before["metrics"],
            after["metrics"],
            rows,
            verdict,
            learns_from_rewards=self.agent.learns_from_rewards,
            settings=self.config.hyperparameters,
        )
        self._write(after, verdict)
        self._keep_if_best(after)
        return after, verdict

    def _keep_if_best(self, found: dict[str, Any]) -> None:
        """Save the policy in `best/` if its greedy texts have a higher reward than those of the one that is there.

        Only runs that are evaluated during training have one, by a reward.
        """
        if not self.is_scored:
            return
        best, greedy = self.folder.path / BEST, found["metrics"]["greedy"]
        reward, count = greedy["reward/mean"], greedy["examples"]
        if self.config.eval_every and is_better(reward, read_best(best)):
            self.folder.check_lock()
            figures = {"iteration": self.agent.iteration, "reward": reward, "decoding": "greedy", "examples": count}
            policy = self.agent.policy.with_language_model(self.agent.policy.language_model.whole_copy())
            is_main = self.agent.ranks.is_main
            save_best(best, policy if is_main else None, figures | {"metrics": found["metrics"]})

    def best_sentence(self) -> str | None:
        """Return which policy is in `best/`; None without one."""
        found = read_best(self.folder.path / BEST)
        if found is None:
            return None
        (reward,) = floats_of([found["reward"]])
        return (
            f"best policy: {self.folder.path / BEST / 'policy'}, of iteration {found['iteration']} (held-out greedy"
            f" reward {reward:.3f} on {found['examples']} examples)"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return the evaluations during training."""
        return self.folder.rows(EVALUATIONS)

    def _announced(self, when: str, agent: Agent) -> dict[str, Any]:
        most = self.config.eval_examples
        with self.console.waiting(f"evaluating {when} training, at most {most} held-out examples"):
            return self._evaluate(agent)

    def _evaluate(self, agent: Agent) -> dict[str, Any]:
        return evaluate(
            agent.policy,
            self.envs,
            seed=self.config.seed,
            ref_policy=agent.learner.first_policy,
            count=self.config.eval_examples,
            known_words=self.known_words,
            ranks=self.agent.ranks,
            check_model=agent.config.check_model,
        ).as_json()

    def _write(self, after: dict[str, Any] | None, verdict: dict[str, Any] | None) -> None:
        about = {"held_out": self.components.eval_description, "seed": self.config.seed, "verdict": verdict}
        self.folder.write_json(EVALUATION, about | {"before": self.before, "after": after})


def kl_warning_of(
    iteration: int,
    kl: float,
    *,
    bound: float,
    outcome: Outcome | None,
    settings: Collection[str] = ("kl_coef", "kl_target"),
) -> str | None:
    """Return a warning about a KL divergence that is large without a gain in held-out reward, else None.

    Args:
        iteration: the number of the iteration.
        kl: KL divergence from the initial policy in this iteration, in nats per text.
        bound: in nats per text.
        outcome: of the last evaluation during training; None if there was none since the start. "no reward" also
            without an evaluation.
        settings: names of the algorithm's hyperparameters, of which the warning names those that help.
    """
    if not kl > bound or outcome in ("gain", "mixed"):
        return None
    reward = "the held-out reward is not above the start by 2 standard errors"
    if outcome == "worse":
        reward = "a held-out reward, greedy or sampled, is below the start by more than 2 standard errors"
    if outcome is None:
        reward = "the held-out reward was not evaluated since the start; set eval_every"
    elif outcome == "no reward":
        reward = "no reward scores the held-out texts"
    remedies = {"kl_coef": "raise kl_coef", "beta": "raise beta", "kl_target": "set kl_target and a kl_controller"}
    advice = either("lower learning_rate", *(words for name, words in remedies.items() if name in settings))
    return (
        f"warning: KL {kl:.1f} nats a text in iteration {iteration} is above kl_warning {bound:g}, and {reward};"
        f" to keep the texts near the initial policy's, {advice}"
    )
