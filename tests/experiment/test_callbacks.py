"""Callbacks for `learn`: evaluation, checkpoints, early stopping and trackers."""

import json

import pytest
import torch
from doubles import toy_envs, toy_policy

from tril_gym.agents import PPO, LMPolicy, PPOConfig
from tril_gym.experiment import (
    CheckpointCallback,
    EarlyStopping,
    EvaluationCallback,
    TrackerCallback,
    evaluate,
)

NUMBERS = {"epochs": 1, "minibatch_size": 4, "learning_rate": 1e-2}
REWARD = "held_out/greedy/reward/mean"


def agent_of(seed: int = 0) -> PPO:
    torch.manual_seed(5)
    return PPO(toy_policy(), toy_envs(), PPOConfig(**NUMBERS), seed=seed)


def held_out():
    return toy_envs(num_examples=20)


def weights(agent) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in agent.policy.parameters()]


def equal(one, other) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


class TestEvaluation:
    def test_training_is_the_same(self, tmp_path):
        plain, watched = agent_of(), agent_of()
        plain.learn(3)
        callbacks = [EvaluationCallback(held_out(), every=1), CheckpointCallback(tmp_path), EarlyStopping(patience=9)]
        history = watched.learn(3, callbacks=callbacks)
        assert equal(weights(plain), weights(watched))
        assert torch.equal(plain.generator.get_state(), watched.generator.get_state())
        assert all(REWARD in row for row in history)
        other = agent_of(seed=1)
        other.learn(3)
        assert not equal(weights(plain), weights(other))  # the check can fail

    def test_best_policy_is_restored(self, tmp_path):
        agent, at = agent_of(), {}
        evaluation = EvaluationCallback(held_out(), every=2, folder=tmp_path / "best")
        at[0] = weights(agent)
        agent.learn(6, callbacks=[evaluation, lambda report: at.update({report.iteration: weights(agent)})])
        assert [row["iteration"] for row in evaluation.rows] == [0, 2, 4, 6]
        figures = {row["iteration"]: row["metrics"]["greedy/reward/mean"] for row in evaluation.rows}
        best = max(figures, key=figures.get)  # the first of equals
        assert evaluation.best["iteration"] == best
        evaluation.restore()
        assert equal(weights(agent), at[best])
        loaded = LMPolicy.from_pretrained(tmp_path / "best" / "policy")
        assert equal([parameter.detach() for parameter in loaded.parameters()], at[best])
        again = evaluate(agent.policy, held_out(), seed=0).metrics["greedy"]["reward/mean"]
        written = json.loads((tmp_path / "best" / "best.json").read_text())
        assert written["iteration"] == best
        assert written["metrics"]["greedy/reward/mean"] == again == figures[best]

    def test_learning_on_evaluates_nothing_twice(self):
        agent, evaluation = agent_of(), EvaluationCallback(held_out(), every=1)
        agent.learn(1, callbacks=[evaluation])
        agent.learn(1, callbacks=[evaluation])
        assert [row["iteration"] for row in evaluation.rows] == [0, 1, 2]

    def test_its_figures_are_those_of_an_evaluation_with_its_settings(self):
        agent, evaluation = agent_of(), EvaluationCallback(held_out(), every=1, examples=5, seed=3)
        agent.learn(1, callbacks=[evaluation])
        first = agent.learner.first_policy
        found = evaluate(agent.policy, held_out(), seed=3, count=5, ref_policy=first).metrics["sampled"]
        assert {name: evaluation.rows[1]["metrics"][f"sampled/{name}"] for name in found} == found
        assert found["kl"] != 0

    def test_another_agent_begins_anew(self):
        better, evaluation = agent_of(), EvaluationCallback(held_out(), every=1)
        better.learn(4, callbacks=[evaluation])
        other = agent_of(seed=1)
        first = weights(other)
        evaluation.best["reward"] = 99.0  # none of the other's is as good
        other.learn(1, callbacks=[evaluation])
        assert [row["iteration"] for row in evaluation.rows] == [0, 1]
        last = weights(other)
        evaluation.restore()
        assert equal(weights(other), last if evaluation.best["iteration"] else first)

    def test_a_loaded_agent_replaces_the_best_policy_by_a_better_one_only(self, tmp_path):
        agent_of().learn(1, callbacks=[EvaluationCallback(held_out(), every=1, folder=tmp_path / "best")])
        figures = json.loads((tmp_path / "best" / "best.json").read_text())
        metric = "greedy/reward/mean"
        better = figures | {"iteration": 77, "reward": 99.0, "metrics": figures["metrics"] | {metric: 99.0}}

        def best_after(agent):
            (tmp_path / "best" / "best.json").write_text(json.dumps(better))
            agent.learn(1, callbacks=[EvaluationCallback(held_out(), every=1, folder=tmp_path / "best")])
            return json.loads((tmp_path / "best" / "best.json").read_text())["iteration"]

        agent = agent_of()
        agent.learn(1)
        assert best_after(agent) == 77  # as after `load`
        assert best_after(agent_of()) < 77  # a new training begins anew

    def test_several_have_names_of_their_own(self):
        agent = agent_of()
        some, others = (EvaluationCallback(held_out(), every=every, name=f"set{every}") for every in (1, 2))
        history = agent.learn(2, callbacks=[some, others, EarlyStopping("set2/greedy/reward/mean")])
        assert "set2/greedy/reward/mean" not in history[0]
        for evaluation in (some, others):
            for name, value in evaluation.rows[-1]["metrics"].items():
                assert history[1][f"set{evaluation.every}/{name}"] == value

    def test_two_of_one_name_are_refused(self):
        both = [EvaluationCallback(held_out(), every=1) for _ in range(2)]
        with pytest.raises(ValueError, match=r"has a metric held_out/.* already; give each EvaluationCallback a name"):
            agent_of().learn(1, callbacks=both)
        for name in ("", "a/b"):
            with pytest.raises(ValueError, match="name must be a word without a slash"):
                EvaluationCallback(held_out(), name=name)

    def test_the_agents_own_environment_is_refused(self):
        agent = agent_of()
        with pytest.raises(ValueError, match="an environment of its own"):
            agent.learn(1, callbacks=[EvaluationCallback(agent.envs)])

    def test_unknown_metric(self):
        with pytest.raises(ValueError, match=r"no metric 'greedy/reward' .did you mean 'greedy/reward/mean'"):
            agent_of().learn(1, callbacks=[EvaluationCallback(held_out(), metric="greedy/reward")])

    def test_nothing_to_restore(self):
        with pytest.raises(ValueError, match="no best policy in memory"):
            EvaluationCallback(held_out()).restore()


class TestCheckpoints:
    def test_the_last_ones_are_kept(self, tmp_path):
        agent, checkpoints = agent_of(), CheckpointCallback(tmp_path, every=2, keep=2)
        agent.learn(7, callbacks=[checkpoints])
        assert sorted(path.name for path in tmp_path.iterdir()) == ["iteration-000006", "iteration-000007"]
        loaded = PPO.load(checkpoints.newest(), envs=toy_envs())
        agent.learn(1)
        loaded.learn(1)
        assert equal(weights(loaded), weights(agent))

    def test_an_agent_that_is_not_whole_is_not_saved(self, tmp_path):
        agent = agent_of()

        def broken(*parts, **options):
            raise RuntimeError("in the update")

        agent.learner.update = broken
        with pytest.raises(RuntimeError, match="in the update"):
            agent.learn(1, callbacks=[CheckpointCallback(tmp_path)])
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("numbers", [{"every": 0}, {"keep": 0}, {"every": 1.5}])
    def test_bounds(self, tmp_path, numbers):
        with pytest.raises(ValueError, match="must be a whole number of at least 1"):
            CheckpointCallback(tmp_path, **numbers)


class TestEarlyStopping:
    def stopped_after(self, values, **settings) -> tuple[int, str | None]:
        """Return how many iterations run whose metric "x" has these values."""
        numbers = iter(values)
        history = agent_of().learn(
            len(values),
            callbacks=[lambda report: report.metrics.update(x=next(numbers)), EarlyStopping("x", **settings)],
        )
        return len(history), history.stopped

    def test_by_hand(self):
        # Best 2 in the second; the third and fourth are no better.
        assert self.stopped_after([1, 2, 1, 2, 3], patience=2) == (4, "x has not improved on 2 for 2 values")
        assert self.stopped_after([1, 2, 1, 2, 3], patience=3) == (5, None)
        assert self.stopped_after([3, 2, 2.5, 4, 1], patience=2, mode="min") == (
            4,
            "x has not improved on 2 for 2 values",
        )
        assert self.stopped_after([1, 1.4, 1.8, 9], patience=2, min_delta=0.5)[0] == 4  # 1.8 > 1 + 0.5

    def test_evaluations_between(self):
        agent = agent_of()
        stopping = EarlyStopping(patience=1, min_delta=99)
        history = agent.learn(9, callbacks=[EvaluationCallback(held_out(), every=2), stopping])
        assert len(history) == 4  # the first value, in iteration 2, is the best so far; that of 4 is no better

    def test_misspelled(self):
        with pytest.raises(ValueError, match=r"no metric 'reward/maen' .did you mean 'reward/mean'"):
            agent_of().learn(1, callbacks=[EarlyStopping("reward/maen")])

    def test_without_evaluation(self, caplog):
        agent_of().learn(1, callbacks=[EarlyStopping()])
        assert "no iteration had held_out/greedy/reward/mean; put an EvaluationCallback before it" in caplog.text

    @pytest.mark.parametrize("settings", [{"mode": "up"}, {"patience": 0}, {"min_delta": -1}])
    def test_bounds(self, settings):
        with pytest.raises(ValueError, match="must be"):
            EarlyStopping(**settings)


class TestTracker:
    def test_log_add_scalar_and_function(self):
        logged, scalars, given = [], [], []

        class Run:
            def log(self, metrics, step):
                logged.append((step, metrics["reward/mean"]))

        class Writer:
            def add_scalar(self, name, value, step):
                scalars.append((step, name, value))

        trackers = [Run(), Writer(), lambda metrics, step: given.append((step, metrics["reward/mean"]))]
        history = agent_of().learn(2, callbacks=[TrackerCallback(tracker) for tracker in trackers])
        expected = list(zip([1, 2], history["reward/mean"], strict=True))
        assert logged == given == expected
        assert [(step, value) for step, name, value in scalars if name == "reward/mean"] == expected

    def test_no_tracker(self):
        with pytest.raises(TypeError, match=r"a tracker has log\(metrics, step=\.\.\.\)"):
            TrackerCallback("wandb")
