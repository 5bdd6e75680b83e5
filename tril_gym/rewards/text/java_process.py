"""Java programs that answer line by line, each started once and kept alive: starting one takes seconds, a text little.

N lines asked, A lines answered.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import cast

from tril_gym.rewards.base import well_formed

TAIL = 32_768  # bytes at the end of what a dead program wrote to its errors, in which
WORDS = 4  # so many last lines are shown
TRACE = re.compile(r"\s+(at |\.\.\. \d+ more)")  # but not where in Java it happened


class LineProcess:
    """A program that reads lines and answers with lines, started when first asked.

    One that has died since it was last asked is started again. It ends with this object, at the latest with Python.
    One object belongs to one process of the system; `line_process` gives each its own.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = tuple(command)
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._end: weakref.finalize[..., LineProcess] | None = None

    @property
    def pid(self) -> int | None:
        """The number of the running program, None before it is first asked and after it was closed."""
        return self._running.process.pid if self._running else None

    def ask(self, lines: Sequence[str], *, answers: int | None = None) -> list[str]:
        """Send N lines and return A answers, N of them where `answers` is None; lines of any number and length.

        Raises:
            RuntimeError: the program died; the next question starts a new one.
        """
        assert not any("\n" in line or "\r" in line for line in lines), "a line has no line break; see `one_line`"
        with self._lock:
            try:
                return self._start().exchange(lines, len(lines) if answers is None else answers)
            except BaseException:  # also an interrupt: answers left in the pipe would be taken for the next ones
                self._close()
                raise

    def close(self) -> None:
        """End the program; the next question starts it again."""
        with self._lock:
            self._close()

    def _start(self) -> _Running:
        if self._running is None or self._running.process.poll() is not None:
            self._close()
            self._running = _Running(self.command)
            self._end = weakref.finalize(self, _Running.end, self._running)
        return self._running

    def _close(self) -> None:
        if self._end is not None:
            self._end()  # once: a finalizer that was called is done with
        self._running = self._end = None


class _Running:
    """A program that runs, and its three pipes."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self.owner = os.getpid()
        self.writer: threading.Thread | None = None
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`; a pipe could fill up and block
        # Without a buffer: a child of a fork must not find half a question that it would send once more.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, bufsize=0
        )
        self.questions = cast(io.RawIOBase, self.process.stdin)
        self.answers = io.BufferedReader(cast(io.RawIOBase, self.process.stdout))

    def exchange(self, lines: Sequence[str], answers: int) -> list[str]:
        """Write in one thread and read in another, so that full pipes on both sides block nobody."""
        content = "".join(f"{line}\n" for line in lines).encode()
        self.writer = threading.Thread(target=_write, args=(self.questions, content), daemon=True)
        self.writer.start()
        answered = [self._read() for _ in range(answers)]
        self.writer.join()
        return answered

    def end(self) -> None:
        """Kill the program, where it is this process's own and not one of the process that it was forked from."""
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()
            if self.writer is not None:  # it fails now; until it has, its pipe must not be closed under it
                self.writer.join()
        for file in (self.questions, self.answers, self.errors):
            file.close()

    def _read(self) -> str:
        line = self.answers.readline()
        if not line.endswith(b"\n"):
            code = self.process.wait()
            raise RuntimeError(
                f"{' '.join(self.process.args)} ended with code {code} before it had answered: "  # type: ignore[arg-type]
                f"{self._last_words() or 'it said nothing'}. The next text starts a new one"
            )
        return line.decode("utf-8", "replace").rstrip("\r\n")

    def _last_words(self) -> str:
        self.errors.seek(max(0, self.errors.seek(0, os.SEEK_END) - TAIL))
        lines = self.errors.read().decode("utf-8", "replace").splitlines()
        return " / ".join([line.strip() for line in lines if line.strip() and not TRACE.match(line)][-WORDS:])


def line_process(command: Sequence[str]) -> LineProcess:
    """Return this process's program of that command: one for everybody who asks, a new one after a fork."""
    return _line_process(os.getpid(), tuple(command))


def one_line(text: str) -> str:
    """Return a text as one line: words, one space between them, and no halves of characters."""
    return " ".join(well_formed(text).replace("\x00", " ").split())


def numbers(answers: Sequence[str], *, of: str) -> list[float]:
    """Return answers as numbers.

    Raises:
        RuntimeError: one is no number; the message has it.
    """
    try:
        return [float(answer) for answer in answers]
    except ValueError as error:
        raise RuntimeError(f"{of} did not answer with a number: {error}") from error


def find_java(reward: str, *, compiler: bool = False) -> str:
    """Return the path of Java, that of $JAVA_HOME before that on the path.

    Raises:
        ValueError: there is none, or it has no compiler where one is needed.
    """
    home = os.environ.get("JAVA_HOME")
    places = os.pathsep.join([*([str(Path(home) / "bin")] if home else []), os.environ.get("PATH", os.defpath)])
    java = shutil.which("java", path=places)
    if java is None:
        raise ValueError(
            f"{reward} runs a Java program and found no `java`, neither in $JAVA_HOME nor on the path; {GET}"
        )
    if compiler and shutil.which("javac", path=str(Path(java).parent) + os.pathsep + places) is None:
        raise ValueError(f"{reward} compiles a small Java program and found no `javac` beside {java}; {GET}")
    return java


GET = "install a JDK of version 11 or newer (Debian: `apt install default-jdk-headless`) or set JAVA_HOME to one"


def check_memory(memory: str) -> None:
    """Raise ValueError where this is no amount of memory that Java understands."""
    if not re.fullmatch(r"[1-9]\d*[kmgKMG]", memory):
        raise ValueError(f'memory must be a number with k, m or g, such as "2g", got {memory!r}')


def caption_file(reward: str, path: str) -> Path:
    """Return the path of a file of the package pycocoevalcap, which is not imported.

    Raises:
        ImportError: the package is not installed.
    """
    spec = importlib.util.find_spec("pycocoevalcap")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [Path(folder) / path for folder in folders if (Path(folder) / path).is_file()]
    if not found:
        raise ImportError(f'{reward} needs {Path(path).name} of pycocoevalcap: `pip install "tril-gym[caption]"`')
    return found[0].absolute()


@lru_cache(maxsize=8)
def _line_process(pid: int, command: tuple[str, ...]) -> LineProcess:
    return LineProcess(command)


def _write(file: io.RawIOBase, content: bytes) -> None:
    view = memoryview(content)
    try:
        while view:
            view = view[file.write(view) or 0 :]
    except OSError:  # the program died, which the reader reports
        pass
