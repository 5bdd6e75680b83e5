"""Java programs that reply line by line. Each is started once and kept alive, because starting takes seconds.

N lines sent, A lines received.
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

STDERR_BYTES = 32_768  # at the end of a dead program's standard error, which are searched for
STDERR_LINES = 4  # the last lines, which are shown,
# Numbers with a point and lower case as in English, whatever the language of the system.
ENGLISH = tuple(
    f"-Duser.{key}{kind}={value}" for kind in ("", ".format") for key, value in (("language", "en"), ("country", "US"))
)
TRACE = re.compile(r"\s+(at |\.\.\. \d+ more)")  # without the lines of a Java stack trace


class LineProcess:
    """A program that reads lines and replies with lines. It starts at the first request.

    A program that has died is started again at the next request. It ends with this object, at the latest with Python.
    An object must not be shared between processes of the system; `line_process` gives each its own.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = tuple(command)
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._end: weakref.finalize[..., LineProcess] | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the running program; None before the first request and after `close`."""
        return self._running.process.pid if self._running else None

    def request(self, lines: Sequence[str], *, num_replies: int | None = None) -> list[str]:
        """Send N lines and return A lines of reply, by default N.

        Raises:
            RuntimeError: the program died; the next request starts a new one.
        """
        assert not any("\n" in line or "\r" in line for line in lines), "a line has no line break; see `one_line`"
        with self._lock:
            try:
                count = len(lines) if num_replies is None else num_replies
                return self._start().request(lines, count)
            except BaseException:  # also an interrupt: leftover replies would be read at the next request
                self._close()
                raise

    def close(self) -> None:
        """End the program; the next request starts it again."""
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
            self._end()  # a finalizer runs once
        self._running = self._end = None


class _Running:
    """A running program and its three pipes."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self.owner = os.getpid()
        self.writer: threading.Thread | None = None
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`; a pipe could fill up and block
        # Unbuffered: a forked child must not inherit half a request in a buffer and send it again.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, bufsize=0
        )
        self.stdin = cast(io.RawIOBase, self.process.stdin)
        self.stdout = io.BufferedReader(cast(io.RawIOBase, self.process.stdout))

    def request(self, lines: Sequence[str], num_replies: int) -> list[str]:
        """Write in one thread and read in another, so that two full pipes cannot block each other."""
        content = "".join(f"{line}\n" for line in lines).encode()
        self.writer = threading.Thread(target=_write, args=(self.stdin, content), daemon=True)
        self.writer.start()
        replies = [self._read() for _ in range(num_replies)]
        self.writer.join()
        return replies

    def end(self) -> None:
        """Kill the program, unless it belongs to the process that this one was forked from."""
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()
            if self.writer is not None:  # it fails now; its pipe must not be closed before
                self.writer.join()
        for file in (self.stdin, self.stdout, self.errors):
            file.close()

    def _read(self) -> str:
        line = self.stdout.readline()
        if not line.endswith(b"\n"):
            code = self.process.wait()
            raise RuntimeError(
                f"{' '.join(self.process.args)} exited with code {code} before it replied: "  # type: ignore[arg-type]
                f"{self._last_errors() or 'no error message'}. The next text starts a new one"
            )
        return line.decode("utf-8", "replace").rstrip("\r\n")

    def _last_errors(self) -> str:
        self.errors.seek(max(0, self.errors.seek(0, os.SEEK_END) - STDERR_BYTES))
        lines = self.errors.read().decode("utf-8", "replace").splitlines()
        return " / ".join([line.strip() for line in lines if line.strip() and not TRACE.match(line)][-STDERR_LINES:])


def line_process(command: Sequence[str]) -> LineProcess:
    """Return the program of that command, one per process of the system: a forked process gets a new one."""
    return _line_process(os.getpid(), tuple(command))


def one_line(text: str) -> str:
    """Return a text as one line: words separated by single spaces, without lone surrogates."""
    return " ".join(well_formed(text).replace("\x00", " ").split())


def parse_numbers(replies: Sequence[str], *, reward: str) -> list[float]:
    """Return replies as numbers.

    Raises:
        RuntimeError: a reply is not a number.
    """
    try:
        return [float(reply) for reply in replies]
    except ValueError as error:
        raise RuntimeError(f"{reward} did not reply with a number: {error}") from error


def find_java(reward: str, *, compiler: bool = False) -> str:
    """Return the path of the `java` command, first of $JAVA_HOME, then of the search path.

    Raises:
        ValueError: there is none, or a compiler is needed and there is none.
    """
    home = os.environ.get("JAVA_HOME")
    places = os.pathsep.join([*([str(Path(home) / "bin")] if home else []), os.environ.get("PATH", os.defpath)])
    java = shutil.which("java", path=places)
    if java is None:
        raise ValueError(
            f"{reward} runs a Java program and found no `java`, neither in $JAVA_HOME nor on the path; {INSTALL_JAVA}"
        )
    if compiler and shutil.which("javac", path=str(Path(java).parent) + os.pathsep + places) is None:
        raise ValueError(f"{reward} compiles a small Java program and found no `javac` beside {java}; {INSTALL_JAVA}")
    return java


INSTALL_JAVA = "install a JDK 11 or newer (Debian: `apt install default-jdk-headless`) or set JAVA_HOME to one"


def check_memory(memory: str) -> None:
    """Raise ValueError for anything but an amount of memory in Java's notation."""
    if not re.fullmatch(r"[1-9]\d*[kmgKMG]", str(memory)):
        raise ValueError(f'memory must be a number with k, m or g, such as "2g", got {memory!r}')


def caption_file(reward: str, path: str) -> Path:
    """Return the path of a file of the package pycocoevalcap, without importing it.

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
    except OSError:  # the program died; the reader reports it
        pass
