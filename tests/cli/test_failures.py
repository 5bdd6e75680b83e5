"""How failing commands end: with one message and an exit code, and with a traceback only under --debug."""

import os
import signal

import click
import pytest
from click.testing import CliRunner

from tril_gym.agents.learners.nonfinite import NonFiniteError
from tril_gym.cli import main, train_group
from tril_gym.cli.failures import reported_failures
from tril_gym.cli.options import usage_errors
from tril_gym.utils.interrupt import Interrupted


def with_note(error, note):
    error.add_note(note)
    return error


def raising(error):
    def work():
        raise error

    return work


def ending(work, capsys, *, debug=False):
    """Return the exit code and the output of a command that does some work."""
    with pytest.raises((SystemExit, click.ClickException)) as end, reported_failures(debug=debug):
        work()
    code = end.value.exit_code if isinstance(end.value, click.ClickException) else end.value.code
    return code, capsys.readouterr().err


ENDS = {
    "an error of ours": (RuntimeError("reward 'x' failed"), 1, "Error: reward 'x' failed\n"),
    "an error of a library": (ConnectionError("no route"), 1, "Error: ConnectionError: no route\n"),
    "an error without words": (MemoryError(), 1, "Error: MemoryError\n"),
    "a number that is not finite": (NonFiniteError("policy/loss is nan"), 1, "Error: policy/loss is nan\n"),
    "the way out": (
        with_note(OSError("disk full"), "to continue, use --resume"),
        1,
        "full\nTo continue, use --resume.\n",
    ),
    "a long error": (RuntimeError("x" * 10_000), 1, "x …\n"),
    "an interrupt": (Interrupted("stopped after iteration 3", signal.SIGTERM), 143, "stopped after iteration 3\n"),
    "Ctrl-C": (with_note(KeyboardInterrupt(), "no checkpoint yet"), 130, "stopped at once\nNo checkpoint yet.\n"),
}


@pytest.mark.parametrize("name", ENDS)
def test_ends_of_a_command(name, capsys):
    error, code, words = ENDS[name]
    found, text = ending(raising(error), capsys)
    assert found == code
    assert words in text
    assert "Traceback" not in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_before_the_run_stops_the_command(number, capsys):
    code, text = ending(lambda: os.kill(os.getpid(), number), capsys)
    assert (code, text) == (128 + number, "stopped at once\n")


def test_debug_shows_the_traceback(capsys):
    code, text = ending(raising(RuntimeError("why")), capsys, debug=True)
    assert code == 1
    assert "Traceback" in text
    assert text.endswith("Error: why\n")

    def mistake():
        with usage_errors():
            raise ValueError("--seed must be an integer")

    code, text = ending(mistake, capsys, debug=True)
    assert code == 2
    assert "ValueError: --seed must be an integer" in text


def test_success_prints_nothing(capsys):
    with reported_failures(debug=False):
        pass
    assert capsys.readouterr().err == ""


def test_ctrl_c_before_a_command_begins_has_the_exit_code_of_one(monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_group, "get_command", interrupted)
    result = CliRunner().invoke(main, ["train", "ppo"])
    assert result.exit_code == 130
    assert result.output.strip() == "stopped at once"
