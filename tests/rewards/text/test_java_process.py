"""Java processes that answer line by line, with a Python program in the place of Java."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tril_gym.rewards.text import java_process as java
from tril_gym.rewards.text.java_process import (
    LineProcess,
    check_memory,
    find_java,
    line_process,
    one_line,
    parse_numbers,
)

ECHO = """
import os, sys
for number, line in enumerate(sys.stdin):
    line = line.rstrip("\\n")
    if line == "die":
        sys.exit("no memory left")
    sys.stdout.write("x" * int(line[4:]) + "\\n" if line.startswith("long") else f"{number} {line}\\n")
    sys.stdout.flush()
"""
COMMAND = [sys.executable, "-S", "-E", "-X", "utf8", "-c", ECHO]


@pytest.fixture
def process():
    process = LineProcess(COMMAND)
    yield process
    process.close()


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_lines_are_answered_in_order_by_one_program(process):
    assert process.pid is None
    assert process.request(["a", "b c", "größe \N{DOG FACE}", ""]) == ["0 a", "1 b c", "2 größe \N{DOG FACE}", "3 "]
    pid = process.pid
    assert process.request(["d"]) == ["4 d"]
    assert process.request([]) == []
    assert process.pid == pid


def test_requests_larger_than_the_pipes_do_not_block(process):
    # A pipe holds 64 kB: 300 requests of 10 kB and their replies fill both.
    answers = process.request(["long10000" + " " * 10_000] * 300)
    assert [len(answer) for answer in answers] == [10_000] * 300


def test_failed_process_is_reported_and_replaced(process):
    process.request(["a"])
    first = process.pid
    with pytest.raises(RuntimeError, match=r"exited with code 1 before it replied: no memory left\. The next text"):
        process.request(["b", "die", "c"] + ["long1" + " " * 100_000] * 5)
    assert process.pid is None
    assert process.request(["d"]) == ["0 d"]
    assert process.pid != first


def test_errors_are_reported_without_stack_trace():
    words = ["started", "java.lang.Error: no models", "\tat a.b(C.java:1)", "Caused by: x", "\t... 7 more"]
    die = "import sys; sys.stdin.readline(); sys.exit('\\n'.join(sys.argv[1:]))"
    process = LineProcess([sys.executable, "-SE", "-c", die, *words])
    with pytest.raises(RuntimeError, match=r"replied: started / java.lang.Error: no models / Caused by: x\. The next"):
        process.request(["a"])


def test_killed_process_is_replaced(process):
    process.request(["a"])
    os.kill(process.pid, 9)
    process._running.process.wait()
    assert process.request(["b"]) == ["0 b"]


def test_reply_to_an_interrupted_request_is_dropped(process, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(java._Running, "_read", interrupt)
        with pytest.raises(KeyboardInterrupt):
            process.request(["a"])
    assert process.request(["b"]) == ["0 b"]


def test_process_ends_with_its_object():
    process = LineProcess(COMMAND)
    process.request(["a"])
    pid = process.pid
    assert is_alive(pid)
    del process
    assert not is_alive(pid)


def test_line_break_in_a_request_is_an_assertion(process):
    with pytest.raises(AssertionError, match="one_line"):
        process.request(["a\nb"])


def test_equal_commands_share_a_process():
    assert line_process(COMMAND) is line_process(tuple(COMMAND))
    assert line_process(COMMAND) is not line_process([*COMMAND, "other"])


FORK = """
import os, sys
from tril_gym.rewards.text.java_process import line_process
command = sys.argv[1:]
print(*line_process(command).request(["a"]), line_process(command).pid, flush=True)
if os.fork() == 0:
    print(*line_process(command).request(["child"]), line_process(command).pid, flush=True)
    sys.exit()  # with all that Python does at its end
os.wait()
print(*line_process(command).request(["b"]), line_process(command).pid, flush=True)
"""


def test_forked_process_starts_its_own():
    run = subprocess.run([sys.executable, "-c", FORK, *COMMAND], capture_output=True, text=True, check=True)
    parent, child, later = (line.rsplit(" ", 1) for line in run.stdout.splitlines())
    assert (parent[0], child[0], later[0]) == ("0 a", "0 child", "1 b")
    assert parent[1] == later[1] != child[1]
    deadline = time.monotonic() + 10
    while any(map(is_alive, (int(parent[1]), int(child[1])))):  # until the system has removed them
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_text_becomes_one_line():
    assert one_line(" a\tb\r\nc\x00d\u2028e\x1f ") == "a b c d e"
    assert one_line("half \udce2 a character") == "half ? a character"
    assert one_line(" \n") == ""


def test_reply_without_number_is_in_the_message():
    assert parse_numbers(["0.5", "1"], reward="meteor") == [0.5, 1.0]
    with pytest.raises(RuntimeError, match=r"meteor did not reply with a number: .*'error: no parse'"):
        parse_numbers(["0.5", "error: no parse"], reward="meteor")


def test_java_is_found_by_java_home_and_path(tmp_path, monkeypatch):
    on_path, at_home = tmp_path / "java", tmp_path / "home" / "bin" / "java"
    at_home.parent.mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ValueError, match=r"meteor runs a Java program and found no `java`.*install a JDK"):
        find_java("meteor")
    for path in (on_path, at_home):
        path.touch(mode=0o755)
    assert find_java("meteor") == str(on_path)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert find_java("meteor") == str(at_home)
    with pytest.raises(ValueError, match=r"official_spice compiles .* no `javac` beside .*install a JDK"):
        find_java("official_spice", compiler=True)
    at_home.with_name("javac").touch(mode=0o755)
    assert find_java("official_spice", compiler=True) == str(at_home)


@pytest.mark.parametrize("memory", ["2", "g", "2 g", "0g", "-1g", "2gb", ""])
def test_memory_setting_has_a_unit(memory):
    check_memory("512m")
    with pytest.raises(ValueError, match=r'memory must be a number with k, m or g, such as "2g", got'):
        check_memory(memory)


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java 11")
def test_numbers_have_a_point_in_every_language(tmp_path, monkeypatch):
    """Where the system writes 0,5 so would the program, which is no number to Python."""
    program = tmp_path / "Half.java"
    program.write_text(
        'public class Half { public static void main(String[] a) { System.out.println(String.format("%.1f", 0.5)); } }'
    )
    german = "-Duser.language=de -Duser.country=DE -Duser.language.format=de -Duser.country.format=DE"
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", german)
    replies = [
        subprocess.run(["java", *options, str(program)], capture_output=True, text=True, check=True).stdout.strip()
        for options in ((), java.ENGLISH)
    ]
    assert replies == ["0,5", "0.5"]
    with pytest.raises(RuntimeError, match="did not reply with a number"):
        parse_numbers(replies[:1], reward="meteor")


def test_java_rewards_start_java_in_english(monkeypatch):
    from tril_gym.rewards.text import meteor, official_spice

    for module in (meteor, official_spice):
        monkeypatch.setattr(module, "caption_file", lambda reward, path: Path("x.jar"))
        monkeypatch.setattr(module, "find_java", lambda reward, compiler=False: "java")
    monkeypatch.setattr(official_spice, "class_path", lambda corenlp: ["x.jar"])
    for reward in (meteor.Meteor(), official_spice.OfficialSpice()):
        assert set(java.ENGLISH) <= set(
            reward.command[: reward.command.index("-jar" if reward.name == "meteor" else "-cp")]
        )
