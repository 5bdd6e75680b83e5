"""What `learn` calls, prints and returns."""

import gc
import io
import json
import os
import re
import signal
import weakref
from functools import partial

import numpy as np
import pandas
import pytest
import torch
from doubles import toy_envs, toy_policy
from rich.console import Console

from tril_gym.agents import PPO, Callback, History, PPOConfig, StopTraining
from tril_gym.agents.algorithms.progress import ProgressCallback
from tril_gym.utils.console import RunConsole


def agent_of() -> PPO:
    return PPO(toy_policy(), toy_envs(), PPOConfig(epochs=1, minibatch_size=8))


class Recorder(Callback):
    """Records what is called."""

    def __init__(self, calls, name="", stops_at=None):
        self.calls, self.name, self.stops_at = calls, name, stops_at

    def start(self, agent, iterations):
        self.calls.append((f"start{self.name}", agent.iteration, iterations))

    def iteration(self, report):
        self.calls.append((f"iteration{self.name}", report.iteration))
        if report.iteration == self.stops_at:
            return StopTraining("enough")
        return None

    def end(self, history):
        self.calls.append((f"end{self.name}", len(history), history.stopped))


class TestCalls:
    def test_order(self):
        calls, agent = [], agent_of()
        agent.learn(2, callbacks=[Recorder(calls, "A"), lambda report: calls.append("f"), Recorder(calls, "B")])
        assert calls == [
            ("startA", 0, 2),
            ("startB", 0, 2),
            *(("iterationA", 1), "f", ("iterationB", 1)),
            *(("iterationA", 2), "f", ("iterationB", 2)),
            ("endB", 2, None),
            ("endA", 2, None),
        ]

    def test_stop_returned_or_raised(self):
        def stop(report):
            raise StopTraining("a NaN is near")

        agent, calls = agent_of(), []
        history = agent.learn(5, callbacks=[Recorder(calls, stops_at=2)], progress=False)
        assert (len(history), history.stopped, agent.iteration) == (2, "enough", 2)
        history = agent.learn(5, callbacks=[stop, Recorder(calls)], progress=False)
        assert (len(history), history.stopped, agent.iteration) == (1, "a NaN is near", 3)
        assert ("iteration", 3) in calls  # callbacks after one that stops are still called

    def test_an_exception_ends_all_that_started(self):
        class Broken(Callback):
            def start(self, agent, iterations):
                raise RuntimeError("no disk")

        calls = []
        with pytest.raises(RuntimeError, match="no disk"):
            agent_of().learn(1, callbacks=[Recorder(calls, "A"), Broken(), Recorder(calls, "B")])
        assert calls == [("startA", 0, 1), ("endA", 0, None)]

    @pytest.mark.parametrize(
        ("callbacks", "message"),
        [
            (print, r"callbacks must be a list, such as callbacks=\[f\]"),
            ([3], r"a callback is a function f\(report\) or a tril_gym.agents.Callback, got 3"),
            ([Recorder], r"the class Recorder; make an object of it: Recorder\(\.\.\.\)"),
            ([lambda report: True], r"returned True; to stop the training, return or raise StopTraining"),
            ([lambda report: StopTraining], r"returned the class StopTraining; to stop the training, return or raise"),
        ],
    )
    def test_wrong_callbacks(self, callbacks, message):
        with pytest.raises(TypeError, match=message):
            agent_of().learn(1, callbacks=callbacks)

    @pytest.mark.parametrize("iterations", [0, -3])
    def test_no_iterations(self, iterations):
        with pytest.raises(ValueError, match=f"iterations must be at least 1, got {iterations}"):
            agent_of().learn(iterations)

    def test_iterations_are_whole(self):
        for wrong in (1.5, "3", True):
            with pytest.raises(TypeError, match=f"whole number, got {wrong!r}"):
                agent_of().learn(wrong)
        assert len(agent_of().learn(np.int64(1))) == 1


class TestInterrupt:
    def test_first_signal_ends_after_the_iteration(self):
        agent = agent_of()
        history = agent.learn(9, callbacks=[lambda report: os.kill(os.getpid(), signal.SIGINT)])
        assert (len(history), history.stopped, agent.iteration) == (1, "interrupted", 1)
        assert agent.history is history
        assert len(agent.learn(1)) == 1  # usable

    def test_second_signal_stops_at_once(self):
        def interrupt(report):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

        agent = agent_of()
        with pytest.raises(KeyboardInterrupt):
            agent.learn(9, callbacks=[interrupt])
        assert (len(agent.history), agent.is_whole) == (1, True)

    def test_same_weights_as_never_stopped(self):
        stopped, straight = agent_of(), agent_of()
        stopped.learn(9, callbacks=[lambda report: os.kill(os.getpid(), signal.SIGINT)])
        stopped.learn(1)
        straight.learn(2)
        parameters = zip(stopped.policy.parameters(), straight.policy.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in parameters)


class TestResults:
    def test_history(self):
        agent = agent_of()
        history = agent.learn(3)
        assert isinstance(history, History)
        assert history["iteration"] == [1, 2, 3]
        assert history[-1]["iteration"] == 3
        assert list(history.to_dict()["reward/mean"]) == [row["reward/mean"] for row in history]
        with pytest.raises(KeyError, match="no metric 'reward'; there are iteration, episodes"):
            history["reward"]

    @pytest.mark.parametrize("form", [lambda history: history, lambda history: history.to_dict()])
    def test_pandas(self, form):
        frame = pandas.DataFrame(form(agent_of().learn(2)))
        assert list(frame["iteration"]) == [1, 2]
        assert frame["reward/mean"].dtype == float

    def test_missing_metrics_are_none(self):
        history = History([{"iteration": 1}, {"iteration": 2, "kl": 0.5}])
        assert history["kl"] == [None, 0.5]

    def test_report(self):
        reports = []
        agent_of().learn(1, callbacks=[reports.append])
        (report,) = reports
        texts = report.texts()
        assert [text["reward"] for text in texts] == report.trajectories.rewards.sum(1).tolist()
        assert report.texts(2) == texts[:2]
        plain = report.to_dict()
        assert json.loads(json.dumps(plain)) == plain
        assert plain["texts"] == texts

    def test_no_trajectories_are_kept(self):
        alive = []

        def look(report):
            gc.collect()
            alive.append(sum(tensor() is not None for tensor in seen))
            seen.append(weakref.ref(report.trajectories.tokens))

        seen: list = []
        history = agent_of().learn(3, callbacks=[look])
        gc.collect()
        assert alive == [0, 0, 0]
        assert [tensor() for tensor in seen] == [None] * 3
        assert len(history) == 3

    def test_kept_reports_keep_theirs(self):
        """The check above can fail."""
        reports = []
        agent_of().learn(1, callbacks=[reports.append])
        seen = weakref.ref(reports[0].trajectories.tokens)
        gc.collect()
        assert seen() is not None


class TestProgress:
    def shown(self, *, terminal: bool, heartbeat: float = 60.0, monkeypatch=None) -> str:
        output = io.StringIO()
        console = RunConsole(Console(file=output, force_terminal=terminal, width=120, highlight=False))
        monkeypatch.setattr("tril_gym.agents.algorithms.progress.HEARTBEAT", heartbeat)
        agent_of().learn(3, callbacks=[ProgressCallback(console)], progress=False)
        return output.getvalue()

    def test_terminal_has_a_bar_and_a_table(self, monkeypatch):
        shown = self.shown(terminal=True, monkeypatch=monkeypatch)
        assert "ppo" in shown
        table = shown.splitlines()[-6:]
        assert "iteration" in "".join(table)
        assert [line.split()[0] for line in table if line.strip()[:1].isdigit()] == ["1", "2", "3"]

    def test_pipe_has_a_line_now_and_then(self, monkeypatch):
        assert self.shown(terminal=False, monkeypatch=monkeypatch) == ""
        lines = self.shown(terminal=False, heartbeat=0.0, monkeypatch=monkeypatch).splitlines()
        assert len(lines) == 3
        assert re.match(r"ppo: 2 of 3 steps after \d+ s  reward \d", lines[1])

    def test_interrupt_is_announced(self):
        output = io.StringIO()
        console = RunConsole(Console(file=output, force_terminal=True, width=120))
        for is_stopping in (False, True):
            agent_of().learn(
                1, callbacks=[ProgressCallback(console, is_stopping=partial(bool, is_stopping))], progress=False
            )
            assert ("press Ctrl-C again to stop at once" in output.getvalue()) == is_stopping

    def test_default_and_silence(self, capsys, monkeypatch):
        monkeypatch.setattr("tril_gym.agents.algorithms.progress.HEARTBEAT", 0.0)
        agent_of().learn(1, progress=False)
        assert capsys.readouterr().out == ""
        agent_of().learn(1)
        assert capsys.readouterr().out.startswith("ppo: 1 of 1 steps")
