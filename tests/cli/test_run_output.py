"""`--log-json`, `--quiet`, and lines of a run that prints nothing for a while."""

import io
import json
import logging
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from rich.console import Console

from tril_gym.cli import main
from tril_gym.utils.console import RunConsole
from tril_gym.utils.console_modes import JsonConsole, QuietConsole

TOY = ("--env", "tril/Toy-v0", "--num-envs", "4", "--eval-examples", "4", "--iterations", "2")
RUN = ("train", "ppo", *TOY, "--tiny-samples", "8")


@pytest.fixture(autouse=True)
def level():
    """The level of messages, which the options set for the process."""
    yield
    logging.getLogger("tril_gym").setLevel(logging.NOTSET)


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def events(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_each_line_is_an_event(tmp_path):
    result = call(*RUN, "--output-dir", tmp_path / "run", "--log-json", "--eval-every", 1)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    found = events(result)
    assert [row["event"] for row in found] == [
        "start", "evaluation", "iteration", "evaluation", "iteration", "evaluation", "end",
    ]  # fmt: skip
    start, before, first, during, _, after, end = found
    assert (start["folder"], start["config"]["env"]) == (str(tmp_path / "run"), "tril/Toy-v0")
    written = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {name: value for name, value in first.items() if name != "event"} == written[0]
    assert [(row["when"], row["iteration"]) for row in (before, during, after)] == [
        ("before", 0),
        ("during", 1),
        ("after", 2),
    ]
    assert after["metrics"]["greedy"]["examples"] == 4
    assert end["verdict"]["outcome"] in ("gain", "no gain", "mixed", "worse")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--reward", "rougeL"), 2, "unknown reward 'rougeL'"),
        (("--iterations", "x"), 2, "'x' is not a valid integer"),
        (("--nope",), 2, "No such option '--nope'"),
    ],
)
def test_errors_are_events(arguments, code, words, tmp_path):
    result = call(*RUN, "--output-dir", tmp_path / "run", "--log-json", *arguments)
    (row,) = events(result)
    assert (result.exit_code, row["event"], row["exit_code"]) == (code, "error", code)
    assert words in row["message"]
    assert words in " ".join(result.stderr.split())


def test_a_failure_in_a_run_is_an_event(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "failing_reward.py").write_text(
        "calls = []\ndef f(completions):\n    calls.append(1)\n    if len(calls) > 4:\n"
        "        raise RuntimeError('it is gone')\n    return [0.0] * len(completions)\n"
    )
    name = "failing_reward.py:f"
    result = call(*RUN, "--output-dir", "run", "--log-json", "--reward", name, "--reward-arg", f"{name}.retries=0")
    last = events(result)[-1]
    assert (result.exit_code, last["event"], last["exit_code"]) == (1, "error", 1)
    assert "it is gone" in last["message"]
    assert "--resume" in last["message"]


def test_quiet_prints_nothing_but_errors(tmp_path):
    result = call(*RUN, "--output-dir", tmp_path / "run", "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    result = call(*RUN, "--output-dir", tmp_path / "run", "--quiet")
    assert result.exit_code == 2
    assert "is not empty" in result.stderr
    assert call(*RUN, "--quiet", "--log-json").exit_code == 2


def test_warnings_are_printed_in_every_mode(capsys):
    JsonConsole().warn("hot")
    assert json.loads(capsys.readouterr().out) == {"event": "warning", "message": "hot"}
    QuietConsole().warn("hot")
    assert capsys.readouterr() == ("", "hot\n")
    RunConsole().warn("hot")
    assert capsys.readouterr() == ("hot\n", "")


def test_a_silent_activity_is_named():
    output = io.StringIO()
    console = RunConsole(Console(file=output))
    with console.heartbeat(every=0.05), console.waiting("reading a long book"):
        time.sleep(0.3)
    lines = output.getvalue().splitlines()
    assert lines[0] == "reading a long book"
    assert 2 <= len(lines) <= 7
    assert all(line.strip().startswith("… reading a long book, for 0 s") for line in lines[1:])
    time.sleep(0.1)
    assert output.getvalue().splitlines() == lines


def test_a_terminal_or_frequent_lines_need_no_heartbeat():
    terminal = io.StringIO()
    console = RunConsole(Console(file=terminal, force_terminal=True))
    with console.heartbeat(every=0.01):
        time.sleep(0.1)
    assert terminal.getvalue() == ""
    lines = io.StringIO()
    console = RunConsole(Console(file=lines))
    another = RunConsole(Console(file=lines))  # such as that of a pretraining
    with console.heartbeat(every=0.2):
        for printing in [console, another] * 20:
            printing.say("x")
            time.sleep(0.01)
    assert set(lines.getvalue().split()) == {"x"}


def test_a_closed_output_does_not_end_the_heartbeat():
    code = (
        "import time; from tril_gym.utils.console_modes import JsonConsole; c = JsonConsole()\n"
        "with c.heartbeat(every=0.02): c.event('start'); time.sleep(0.3)\nopen('done', 'w').close()"
    )
    command = f'"{sys.executable}" -c "{code}" | head -1'
    result = subprocess.run(
        ["bash", "-c", f"cd $(mktemp -d) && {command} && ls done"], capture_output=True, text=True, timeout=120
    )
    assert result.stdout == '{"event": "start"}\ndone\n', result


def test_the_first_line_comes_before_the_data_are_read(monkeypatch, tmp_path):
    from tril_gym.experiment import training

    def fail(*arguments, **settings):
        raise ValueError("the data cannot be read")

    monkeypatch.setattr(training, "new_run", fail)
    result = CliRunner().invoke(main, ["train", "ppo", "--output-dir", str(tmp_path / "run")])
    assert result.stdout.splitlines()[0] == "preparing the run"
