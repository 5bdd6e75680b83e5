"""Parts of a run that fail: it says what is saved and how to continue, and continues as if nothing had happened."""

import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from tril_gym.agents.learners import epochs
from tril_gym.agents.learners.nonfinite import NonFiniteError
from tril_gym.cli import main
from tril_gym.experiment import Interrupted, RunConsole, configure, resume, train
from tril_gym.experiment import run as run_module
from tril_gym.experiment.build import restore_run
from tril_gym.experiment.held_out import HeldOut
from tril_gym.experiment.lock import LOCK, LockedError
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.experiment.training import new_run, resumed_run
from tril_gym.utils import interrupt

SETTINGS = {
    "env": "tril/Toy-v0",
    "num_envs": 8,
    "eval_examples": 6,
    "learning_rate": 1e-2,
    "lr_schedule": "constant",
    "iterations": 5,
    "save_every": 2,
    "epochs": 1,
    "critic_warmup": 1,
}
OPTIONS = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def silent():
    return RunConsole(Console(quiet=True))


def start(folder, **settings):
    return new_run(configure("ppo", **SETTINGS | settings), folder, console=silent())


def again(folder, **settings):
    """Resume to the end; return what was printed."""
    console = Console(file=io.StringIO(), width=200)
    resume(folder, console=RunConsole(console), **settings)
    return console.file.getvalue()


def rows(folder, name="metrics.jsonl"):
    found = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: row[key] for key in row if not key.startswith(("time/", "tokens_per"))} for row in found]


def weights(folder):
    return torch.load(RunFolder(folder).last_checkpoint() / "learner.pt")


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def equal_runs(one, other):
    evaluations = [json.loads((folder / "evaluation.json").read_text()) for folder in (one, other)]
    return (
        all(rows(one, name) == rows(other, name) for name in ("metrics.jsonl", "samples.jsonl"))
        and same(weights(one), weights(other))
        and all(evaluations[0][when] == evaluations[1][when] for when in ("before", "after"))
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without a fault."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(configure("ppo", **SETTINGS), folder, console=silent())
    return folder


@pytest.fixture(scope="module")
def of_two_iterations(tmp_path_factory):
    """A shorter run, finished; to be copied."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    start(folder, iterations=2).run()
    return folder


def test_the_comparison_notices_a_difference(whole, tmp_path):
    start(tmp_path / "other", seed=1).run()
    assert not equal_runs(whole, tmp_path / "other")


def fail_at(run, name, number, error, monkeypatch):
    """Raise an error, or act, at a call of a method of the run's environment, counted from the first iteration on."""
    calls = iter(range(1, 10_000))
    call = getattr(run.agent.envs, name)

    def failing(*args, **kwargs):
        if next(calls) == number:
            if callable(error):
                error()
            else:
                raise error
        return call(*args, **kwargs)

    monkeypatch.setattr(run.agent.envs, name, failing)


def notes(caught):
    return " ".join(caught.value.__notes__)


class TestFailures:
    """The weights and the generator at the start of an iteration are saved where it fails before its update."""

    def test_a_failure_while_collecting_saves_the_iteration_before(self, whole, tmp_path, monkeypatch):
        run = start(tmp_path / "run")
        with monkeypatch.context() as patch:
            fail_at(run, "reset", 4, RuntimeError("the reward service is down"), patch)
            with pytest.raises(RuntimeError, match="service is down") as caught:
                run.run()
        assert "newest checkpoint is of iteration 3 of 5; to continue, use --output-dir" in notes(caught)
        assert not (tmp_path / "run" / LOCK).exists()
        again(tmp_path / "run")
        assert equal_runs(whole, tmp_path / "run")

    def test_a_failure_in_the_update_keeps_the_last_checkpoint(self, whole, tmp_path, monkeypatch):
        run = start(tmp_path / "run")
        with monkeypatch.context() as patch:
            step, numbers = torch.optim.AdamW.step, iter(range(1, 100))

            def failing(*args):
                if next(numbers) == 7:  # of the critic, in the fourth iteration: the policy's is taken
                    raise RuntimeError("CUDA out of memory")
                return step(*args)

            patch.setattr(torch.optim.AdamW, "step", failing)
            with pytest.raises(RuntimeError, match="out of memory") as caught:
                run.run()
        assert not run.agent.is_whole
        assert "newest checkpoint is of iteration 2 of 5" in notes(caught)
        again(tmp_path / "run")
        assert equal_runs(whole, tmp_path / "run")

    def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(self, whole, tmp_path, monkeypatch):
        run = start(tmp_path / "run")
        losses, numbers = epochs.loss_terms, iter(range(1, 100))
        with monkeypatch.context() as patch:

            def poisoned(metrics):
                return {
                    name: value * (1 if next(numbers) < 8 else float("nan")) for name, value in losses(metrics).items()
                }

            patch.setattr(epochs, "loss_terms", poisoned)
            with pytest.raises(NonFiniteError, match="loss is nan before an optimizer step") as caught:
                run.run()
        assert "newest checkpoint is of iteration 2 of 5" in notes(caught)
        again(tmp_path / "run", skip_nonfinite=1)  # which may be given anew
        assert RunFolder(tmp_path / "run").read_config()["hyperparameters"]["skip_nonfinite"] == 1
        metrics = [{k: v for k, v in row.items() if k != "steps/skipped"} for row in rows(tmp_path / "run")]
        assert metrics == rows(whole)

    def test_a_failure_while_evaluating_goes_on_with_the_evaluation(self, tmp_path, monkeypatch):
        start(tmp_path / "whole", eval_every=3).run()
        with monkeypatch.context() as patch:
            patch.setattr(HeldOut, "evaluate_during", lambda self, iteration: 1 / 0)
            with pytest.raises(ZeroDivisionError) as caught:
                start(tmp_path / "run", eval_every=3).run()
        assert "newest checkpoint is of iteration 3 of 5" in notes(caught)
        again(tmp_path / "run")
        assert equal_runs(tmp_path / "whole", tmp_path / "run")
        assert rows(tmp_path / "run", "evaluations.jsonl") == rows(tmp_path / "whole", "evaluations.jsonl")

    def test_a_full_disk_keeps_the_last_checkpoint(self, whole, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            save = torch.save

            def full(content, path, *args, **kwargs):
                if "iteration-000004" in str(path):
                    raise OSError(28, "No space left on device")
                save(content, path, *args, **kwargs)

            patch.setattr(torch, "save", full)
            with pytest.raises(OSError, match="No space left") as caught:
                start(tmp_path / "run").run()
        assert "could not be saved" in notes(caught)
        assert "newest checkpoint is of iteration 2 of 5" in notes(caught)
        assert not [path for path in (tmp_path / "run").rglob(".*")]
        again(tmp_path / "run")
        assert equal_runs(whole, tmp_path / "run")

    def test_a_full_disk_in_a_line_of_metrics_loses_no_line(self, whole, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            append = RunFolder.append

            def full(folder, name, *rows):
                if rows[0]["iteration"] == 4:
                    with (folder.path / name).open("a") as file:
                        file.write('{"iteration": 4, "rew')
                    raise OSError(28, "No space left on device")
                append(folder, name, *rows)

            patch.setattr(RunFolder, "append", full)
            with pytest.raises(OSError, match="No space left") as caught:
                start(tmp_path / "run").run()
        assert "newest checkpoint is of iteration 2 of 5" in notes(caught)  # iteration 4 has no line
        again(tmp_path / "run")
        assert equal_runs(whole, tmp_path / "run")

    def test_a_failure_before_the_first_checkpoint_starts_over(self, whole, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(HeldOut, "_evaluate", lambda *args: 1 / 0)
            with pytest.raises(ZeroDivisionError) as caught:
                start(tmp_path / "run").run()
        assert "no checkpoint was written yet, so the run will start over" in notes(caught)
        assert "starts over" in again(tmp_path / "run")
        assert equal_runs(whole, tmp_path / "run")

    def test_a_curve_that_cannot_be_drawn_is_said(self, tmp_path, monkeypatch):
        monkeypatch.setattr(run_module, "draw_curve", lambda *args, **kwargs: 1 / 0)
        console = Console(file=io.StringIO(), width=200)
        train(configure("ppo", **SETTINGS | {"iterations": 1}), tmp_path / "run", console=RunConsole(console))
        assert "curve.png could not be drawn (ZeroDivisionError" in console.file.getvalue()

    def test_a_tracker_that_fails_does_not_end_the_training(self, whole, tmp_path, monkeypatch, caplog):
        class Accelerator:
            def __init__(self, **settings):
                pass

            def init_trackers(self, *args, **settings):
                pass

            def log(self, metrics, step):
                raise ConnectionError("no route to host")

        monkeypatch.setattr("accelerate.Accelerator", Accelerator)
        monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["wandb"])
        train(configure("ppo", **SETTINGS), tmp_path / "run", track="wandb", console=silent())
        assert caplog.text.count("the tracker wandb failed (ConnectionError: no route to host)") == 1
        assert equal_runs(whole, tmp_path / "run")

    def test_an_incomplete_launch_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "4")
        with pytest.raises(ValueError, match="WORLD_SIZE is 4, but RANK is not set; start the processes with"):
            start(tmp_path / "run")
        assert not (tmp_path / "run").exists()


class TestSignals:
    @pytest.mark.parametrize(
        "number",
        [
            pytest.param(number, marks=[] if number in (signal.SIGINT, signal.SIGTERM) else pytest.mark.slow)
            for number in interrupt.SIGNALS
        ],
    )
    def test_a_signal_stops_after_the_iteration(self, whole, tmp_path, monkeypatch, number):
        run = start(tmp_path / "run")
        with monkeypatch.context() as patch:
            fail_at(run, "reset", 3, lambda: os.kill(os.getpid(), number), patch)
            with pytest.raises(Interrupted, match="stopped after iteration 3 of 5; to continue") as caught:
                run.run()
        assert caught.value.number == number
        if number == signal.SIGTERM:  # what is saved does not depend on the signal
            again(tmp_path / "run")
            assert equal_runs(whole, tmp_path / "run")

    def test_a_second_signal_stops_at_once(self, whole, tmp_path, monkeypatch):
        run = start(tmp_path / "run")
        with monkeypatch.context() as patch:

            def twice():
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)

            fail_at(run, "reset", 4, twice, patch)
            with pytest.raises(KeyboardInterrupt) as caught:
                run.run()
        assert "newest checkpoint is of iteration 2 of 5; to continue, use --output-dir" in notes(caught)
        again(tmp_path / "run")
        assert equal_runs(whole, tmp_path / "run")

    def test_a_signal_in_the_evaluation_stops_at_once(self, whole, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(HeldOut, "evaluate_after", lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(KeyboardInterrupt) as caught:
                start(tmp_path / "run").run()
        assert "newest checkpoint is of iteration 5 of 5" in notes(caught)
        again(tmp_path / "run")
        assert equal_runs(whole, tmp_path / "run")

    def test_a_signal_in_the_last_iteration_stops_before_the_evaluation(self, whole, tmp_path, monkeypatch):
        run = start(tmp_path / "run")
        with monkeypatch.context() as patch:
            fail_at(run, "reset", 5, lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
            with pytest.raises(Interrupted, match="after iteration 5 of 5, before the evaluation"):
                run.run()
        again(tmp_path / "run")
        assert equal_runs(whole, tmp_path / "run")


class TestFolder:
    def test_a_folder_without_a_checkpoint_starts_over(self, whole, tmp_path):
        start(tmp_path / "run").folder.unlock()  # killed before it ran
        text = again(tmp_path / "run")
        assert "has no checkpoint yet: its run starts over" in text
        assert equal_runs(whole, tmp_path / "run")

    def test_torn_lines_are_cut_and_said(self, whole, of_two_iterations, tmp_path, caplog):
        shutil.copytree(of_two_iterations, tmp_path / "run", symlinks=True)
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        torn = [lines[0], "{half", '{"no": "counter"}', "\0\0\0", lines[1], '{"iteration": 3, "rew']
        (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(torn))
        with (tmp_path / "run" / "samples.jsonl").open("ab") as file:
            file.write(b"\xff\xfe\n[1]\n")
        again(tmp_path / "run", iterations=5)
        assert "metrics.jsonl: removed what cannot be read, line 2, 3, 4, 6" in caplog.text
        assert "samples.jsonl: removed what cannot be read, line 4, 5" in caplog.text
        assert rows(tmp_path / "run") == rows(whole)
        assert rows(tmp_path / "run", "samples.jsonl") == rows(whole, "samples.jsonl")

    def test_a_damaged_checkpoint_falls_back(self, whole, tmp_path, monkeypatch, caplog):
        run = start(tmp_path / "run")
        with monkeypatch.context() as patch:
            fail_at(run, "reset", 5, lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
            with pytest.raises(Interrupted):
                run.run()
        path = tmp_path / "run" / "checkpoints" / "iteration-000005" / "learner.pt"
        path.write_bytes(path.read_bytes()[:-100])
        again(tmp_path / "run")
        assert "iteration-000005 is damaged (learner.pt is not what was written)" in caplog.text
        assert equal_runs(whole, tmp_path / "run")

    @pytest.mark.parametrize(
        "content",
        [
            None,
            pytest.param("", marks=pytest.mark.slow),
            pytest.param("{}", marks=pytest.mark.slow),
            '{"before": {"metrics": {}}}',
        ],
    )
    def test_a_lost_first_evaluation_is_repeated_with_the_first_policy(
        self, whole, of_two_iterations, tmp_path, content
    ):
        shutil.copytree(of_two_iterations, tmp_path / "run", symlinks=True)
        path = tmp_path / "run" / "evaluation.json"
        path.unlink() if content is None else path.write_text(content)
        assert "the initial policy is made again" in again(tmp_path / "run", iterations=5)
        assert equal_runs(whole, tmp_path / "run")

    def test_a_run_in_use_is_refused(self, tmp_path):
        run = start(tmp_path / "run")
        with pytest.raises(LockedError, match="is in use by process"):
            resumed_run(tmp_path / "run", {})
        run.folder.unlock()

    def test_a_lost_lock_ends_the_run_without_a_checkpoint(self, tmp_path, monkeypatch):
        run = start(tmp_path / "run")
        thief = RunFolder(tmp_path / "run")
        with monkeypatch.context() as patch:
            fail_at(run, "reset", 3, lambda: thief.lock(force=True), patch)
            with pytest.raises(LockedError, match="now belongs to process"):
                run.run()
        assert [path.name[-1] for path in thief.checkpoints()] == ["0", "2"]
        thief.unlock()

    def test_more_checkpoints_are_kept_when_asked(self, tmp_path):
        start(tmp_path / "run", keep=3, iterations=2, save_every=1).run()
        assert len(RunFolder(tmp_path / "run").checkpoints()) == 3
        again(tmp_path / "run", iterations=3, keep=1)
        assert [path.name[-1] for path in RunFolder(tmp_path / "run").checkpoints()] == ["3"]

    @pytest.mark.parametrize("where", ["settings", "hyperparameters"])
    def test_unknown_settings_are_named(self, tmp_path, where):
        start(tmp_path / "run").folder.unlock()
        settings = RunFolder(tmp_path / "run").read_config()
        (settings if where == "settings" else settings["hyperparameters"])["warp"] = 9
        RunFolder(tmp_path / "run").write_config(settings)
        with pytest.raises(ValueError, match=r"has the setting 'warp', which tril-gym .* does not know"):
            again(tmp_path / "run")

    @pytest.mark.parametrize(("change", "words"), [({"version": "9.1"}, "tril-gym 9.1 wrote"), ({}, "'warp'")])
    def test_an_agent_of_a_newer_version_is_refused_by_name(self, whole, tmp_path, change, words):
        agent = restore_run(configure("ppo", **SETTINGS), RunFolder(whole).last_checkpoint(), whole).agent
        agent.save(tmp_path / "agent")
        about = json.loads((tmp_path / "agent" / "agent.json").read_text())
        assert type(agent).load(tmp_path / "agent", envs=agent.envs).iteration == 5
        about |= change or {"config": about["config"] | {"warp": 9}}
        (tmp_path / "agent" / "agent.json").write_text(json.dumps(about))
        with pytest.raises(ValueError, match=words.replace(".", r"\.")):
            type(agent).load(tmp_path / "agent", envs=agent.envs)

    def test_secrets_are_masked_and_must_be_given_again(self, tmp_path):
        start(tmp_path / "run", env_args={"rule": "count"}).folder.unlock()
        folder = RunFolder(tmp_path / "run")
        folder.write_config(folder.read_config() | {"env_args": {"rule": "count", "api_key": "sk-secret"}})
        assert "sk-secret" not in (tmp_path / "run" / "config.yaml").read_text()
        with pytest.raises(ValueError, match=r"env_args\.api_key is a secret"):
            again(tmp_path / "run")
        with pytest.raises(ValueError, match="'api_key'"):  # given: the environment refuses it by itself
            again(tmp_path / "run", env_args={"api_key": "sk-secret"})


class TestCommandLine:
    """Messages and exit codes of `tril-gym train`."""

    def call(self, *arguments, code):
        result = CliRunner().invoke(main, ["train", "ppo", *map(str, arguments)])
        assert result.exit_code == code, (result.output, result.exception)
        assert ("Traceback" in result.output) == ("--debug" in arguments)
        return " ".join(result.output.split())

    def fault(self, monkeypatch, error):
        def fail(self, iteration):
            raise error

        monkeypatch.setattr(HeldOut, "evaluate_during", fail)

    def test_one_command_begins_and_resumes(self, whole, tmp_path):
        command = [*OPTIONS, "--output-dir", tmp_path / "run", "--resume"]
        assert "has no run yet: it begins now" in self.call(*command, code=0)
        assert "begins now" not in self.call(*command, code=0)
        (tmp_path / "begun" / "checkpoints").mkdir(parents=True)  # killed as it began
        self.call(*OPTIONS, "--output-dir", tmp_path / "begun", "--resume", code=0)
        assert equal_runs(whole, tmp_path / "begun")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").touch()
        assert "is no run folder" in self.call("--output-dir", tmp_path / "mine", "--resume", code=2)

    @pytest.mark.parametrize("debug", [[], ["--debug"]])
    def test_a_failure_is_one_message(self, tmp_path, monkeypatch, debug):
        self.fault(monkeypatch, ConnectionError("the reward service is down"))
        text = self.call(*OPTIONS, "--eval-every", 3, "--output-dir", tmp_path / "run", *debug, code=1)
        assert "Error: ConnectionError: the reward service is down" in text
        assert "The newest checkpoint is of iteration 3 of 5; to continue, use --output-dir" in text

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_has_its_exit_code(self, tmp_path, monkeypatch, number, code):
        monkeypatch.setattr(HeldOut, "evaluate_after", lambda *args, **kwargs: os.kill(os.getpid(), number))
        text = self.call(*OPTIONS, "--output-dir", tmp_path / "run", code=code)
        assert "stopped at once The newest checkpoint is of iteration 5 of 5" in text

    def test_a_closed_output_does_not_end_the_training(self, whole, tmp_path):
        command = [sys.executable, "-m", "tril_gym", "train", "ppo", *OPTIONS, "--output-dir", str(tmp_path / "run")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.readline()
        process.stdout.close()
        assert process.wait() == 0, process.stderr.read()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert equal_runs(whole, tmp_path / "run")

    def test_a_terminal_that_is_gone_makes_the_console_quiet(self, monkeypatch):
        class Gone(io.StringIO):
            calls = 0

            def isatty(self):
                return True

            def write(self, text):
                Gone.calls += 1
                raise OSError(5, "Input/output error")

        monkeypatch.setattr(sys, "stdout", Gone())
        console = RunConsole()
        with console.progress("training", total=2) as show:
            show(1)
            console.say("one")
        console.say("two")
        assert Gone.calls == 1

    def test_killed_and_resumed_by_the_same_command(self, whole, tmp_path):
        command = [*OPTIONS, "--output-dir", tmp_path / "run", "--resume"]
        child = os.fork()  # has imported everything
        if child == 0:
            HeldOut.evaluate_after = lambda *args, **kwargs: time.sleep(60)  # to be killed before its end
            self.call(*command, code=0)
            os._exit(1)
        for _ in range(1200):
            if (tmp_path / "run" / "metrics.jsonl").exists():
                break
            time.sleep(0.05)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        logging.getLogger("tril_gym").setLevel(logging.INFO)
        self.call(*command, code=0)
        assert equal_runs(whole, tmp_path / "run")
