"""A run of 2,000 iterations on the toy environment with random faults of its reward and guide, and with kills.

    python scripts/soak.py [--iterations 2000]

Three times the same run: undisturbed; with faults in one process, which measures its memory, open files and threads at
a quarter and at three quarters; with faults and kills. All must end with the same metrics, weights and optimizer
states. Reward and guide raise at random: mostly for a moment, sometimes for good, which ends the run; it is resumed.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from crash import difference, in_child

FAULTS = "SOAK_FAULTS"  # environment variable: probability that a call fails
LASTING = 0.2  # share of the faults that last for all attempts
GROWTH = 0.02  # of the memory that is allowed


class Faults:
    """Makes a function fail at random: in one call, or in as many as there are attempts."""

    def __init__(self) -> None:
        self.random, self.failing = random.Random(), 0

    def __call__(self) -> None:
        """Raise, with the probability of the environment variable."""
        chance = float(os.environ.get(FAULTS, "0"))
        if self.failing == 0 and self.random.random() < chance:
            self.failing = 3 if self.random.random() < LASTING else 1
        if self.failing > 0:
            self.failing -= 1
            raise ConnectionError("a fault of the soak")


reward_faults, guide_faults = Faults(), Faults()


def share_of_even_words(completions: list[str]) -> list[float]:
    """Return the share of words with an even number, such as w2, among eight."""
    reward_faults()
    return [sum(int(word[1:]) % 2 == 0 for word in text.split() if word[1:].isdigit()) / 8 for text in completions]


def even_words(prompts: list[str], completions: list[str]) -> list[str]:
    """Continue each text with the same four words."""
    guide_faults()
    return [" w2 w4 w6 w8" for _ in prompts]


def settings(iterations: int) -> dict[str, Any]:
    """Return the settings of the run."""
    return {
        "env": "tril/Toy-v0",
        "num_envs": 8,
        "minibatch_size": 8,
        "eval_examples": 4,
        "iterations": iterations,
        "save_every": 25,
        "epochs": 1,
        "tiny_samples": 0,
        "critic_warmup": 1,
        "learning_rate": 1e-3,
        "reward": {"soak:share_of_even_words": 1.0},
        "guide": "soak:even_words",
        "env_args": {"reward_settings": {"soak:share_of_even_words": {"pause": 0.0}}},
    }


class Meter:
    """Memory in MiB, open files and threads of this process, at some iterations."""

    def __init__(self, *iterations: int) -> None:
        self.iterations, self.found = iterations, {}

    def __call__(self, iteration: int) -> None:
        """Measure, where this iteration is one of them."""
        if iteration in self.iterations and iteration not in self.found:
            gc.collect()
            with suppress(OSError, AttributeError):  # glibc keeps what was freed: a few MiB more or less
                ctypes.CDLL(None).malloc_trim(0)
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
            self.found[iteration] = (memory, len(os.listdir("/proc/self/fd")), threading.active_count())

    def check(self) -> str:
        """Return the figures in words.

        Raises:
            AssertionError: memory has grown by more than `GROWTH`, or files or threads were gained.
        """
        (memory, files, threads), (later, files_later, threads_later) = (self.found[at] for at in self.iterations)
        text = f"{memory:.0f} → {later:.0f} MiB, {files} → {files_later} files, {threads} → {threads_later} threads"
        assert later <= memory * (1 + GROWTH), text
        assert files_later <= files, text
        assert threads_later <= threads, text
        return text


def console_with(meter: Meter) -> Any:
    """Return a console that prints nothing and tells the meter of each iteration."""
    from rich.console import Console

    from tril_gym.utils.console import RunConsole

    class MeteredConsole(RunConsole):
        def event(self, kind: str, **content: Any) -> None:
            if kind == "iteration":
                meter(content["iteration"])

    return MeteredConsole(Console(quiet=True))


def live(iterations: int, folder: Path, meter: Meter) -> str:
    """Run to the end, resuming after each failure in the same process; return how often that was, and the figures."""
    from tril_gym.experiment import configure
    from tril_gym.experiment.run_folder import RunFolder
    from tril_gym.experiment.training import new_run, resumed_run

    logging.disable()
    failures = 0
    while True:
        console = console_with(meter)
        try:
            if RunFolder(folder).has_begun():
                resumed_run(folder, {}, trust_code=True, console=console).run()
            else:
                new_run(configure("ppo-pp", **settings(iterations)), folder, console=console).run()
            return f"{failures} failures" + (f"; {meter.check()}" if meter.iterations else "")
        except (
            RuntimeError,
            ValueError,
        ) as error:  # a fault that lasted for all attempts, also in the checks before the run
            if "a fault of the soak" not in str(error):
                raise
            failures += 1


def killed_and_resumed(iterations: int, folder: Path, *, seconds: float) -> int:
    """Run to the end in processes that are killed at random; return how many were."""
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            os._exit(in_this_process(lambda: live(iterations, folder, Meter())))
        end = time.monotonic() + random.uniform(0.3, 1) * seconds
        while time.monotonic() < end:
            if os.waitpid(child, os.WNOHANG)[0]:
                return kills
            time.sleep(0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1


def in_this_process(work: Callable[[], Any]) -> int:
    """Return the exit code of some work."""
    try:
        work()
        return 0
    except BaseException:
        logging.getLogger(__name__).exception("a life failed")
        return 1


@click.command()
@click.option("--iterations", type=click.IntRange(min=40), default=2000, show_default=True)
@click.option("--fault-rate", type=float, default=0.01, show_default=True, help="Probability that a call fails")
@click.option(
    "--kill-after", type=float, default=20.0, show_default=True, help="Seconds until a process is killed, at most"
)
def main(iterations: int, fault_rate: float, kill_after: float) -> None:
    """Run it three times; exit with 1 where the ends differ or something has grown."""
    import tril_gym.agents
    import tril_gym.experiment.training  # noqa: F401  so that no child imports them

    work = Path(tempfile.mkdtemp(prefix="soak-"))
    report, start = work / "report.json", time.monotonic()
    assert in_child(lambda: live(iterations, work / "undisturbed", Meter())) == 0
    click.echo(f"undisturbed: {iterations} iterations in {time.monotonic() - start:.0f} s")
    os.environ[FAULTS] = str(fault_rate)
    meter = Meter(iterations // 4, 3 * iterations // 4)
    assert in_child(lambda: live(iterations, work / "faults", meter), report) == 0
    click.echo(f"with faults: {json.loads(report.read_text())}")
    kills = killed_and_resumed(iterations, work / "kills", seconds=kill_after)
    click.echo(f"with faults and {kills} kills")
    for name in ("faults", "kills"):
        found = difference(work / "undisturbed", work / name)
        assert found is None, f"{name}: the end differs in {found}: {work}"
    shutil.rmtree(work)
    click.echo("all ends are identical")


if __name__ == "__main__":
    main()
