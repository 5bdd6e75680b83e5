"""Kill runs at random file operations, resume them, and compare the end with that of a run that was never killed.

    python scripts/crash.py  # every algorithm, both kinds of model, 20 kills each
    python scripts/crash.py --algorithms ppo --policies tiny --kills 3

This process imports everything once and forks a child for each life of a run, so a life takes a second. A child counts
the operations on files in its run folder, of which Python tells audit hooks, and flushes to the disk; it kills itself
with SIGKILL before one of them, also in the middle of a checkpoint, and may leave half a line where it was to append
one. The same command starts and resumes a run. At the end metrics (but times), samples, evaluations, the names of the
checkpoints and all weights and optimizer states must be identical.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

ALGORITHMS = ("bc", "ppo", "ppo-pp", "aggrevated", "lols", "d2lols", "gail")
POLICIES = ("tiny", "tiny-seq2seq")
SETTINGS: dict[str, Any] = {
    "env": "tril/Toy-v0",
    "num_envs": 6,
    "minibatch_size": 3,
    "eval_examples": 3,
    "eval_every": 2,
    "iterations": 5,
    "save_every": 2,
    "epochs": 1,
    "tiny_samples": 0,
    "learning_rate": 1e-2,
}
OWN: dict[str, dict[str, Any]] = {
    "ppo": {"critic_warmup": 1, "kl_controller": "pid", "kl_target": 2.0, "kl_coef": 0.02, "scale_rewards": True},
    "ppo-pp": {"final_rollin_prob": 0.2, "critic_warmup": 0, "critic": "shared"},
    "aggrevated": {"critic_warmup": 0},
    "lols": {"ppo_pp_prob": 0.5, "critic_warmup": 0},
    "d2lols": {"aggrevated_iterations": 2, "critic_warmup": 0},
    "gail": {"discriminator_replay": 2, "critic_warmup": 0},
}
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree")


class FileOperations:
    """Counts the writing operations in a folder, and kills the process before the one of a given number.

    Args:
        folder: the run folder.
        kill_at: number of the fatal operation, from 1; 0 for none.
        tear: leave half a line where that operation would have appended some.
    """

    def __init__(self, folder: Path, kill_at: int, *, tear: bool) -> None:
        self.folder, self.kill_at, self.tear, self.count = str(folder), kill_at, tear, 0
        sys.addaudithook(self._on_event)
        fsync = os.fsync

        def counted(descriptor: int) -> None:
            self._operation()
            fsync(descriptor)

        os.fsync = counted

    def _on_event(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in EVENTS or not any(isinstance(arg, str | Path) and self.folder in str(arg) for arg in args):
            return
        if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        self._operation(args[0] if event == "open" and args[2] & os.O_APPEND else None)

    def _operation(self, appended: Any = None) -> None:
        self.count += 1
        if self.count == self.kill_at:
            self.kill_at = 0
            if appended is not None and self.tear:
                with open(appended, "a") as file:
                    file.write('{"iteration": 3, "reward/me')
            os.kill(os.getpid(), signal.SIGKILL)


def in_child(work: Callable[[], Any], report: Path | None = None) -> int:
    """Do some work in a forked child, write what it returns into a file; return the exit status, −9 for a kill."""
    child = os.fork()
    if child == 0:
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
            found = work()
            if report is not None:
                report.write_text(json.dumps(found))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def live(algorithm: str, settings: dict[str, Any], folder: Path, kill_at: int = 0, *, tear: bool = False) -> int:
    """Start the run in a folder or resume it; return the number of file operations."""
    from tril_gym.cli.run_options import RunOptions
    from tril_gym.cli.training import prepare_run
    from tril_gym.utils.console import RunConsole
    from tril_gym.utils.quiet import silence_libraries

    silence_libraries()
    operations = FileOperations(folder, kill_at, tear=tear)
    prepare_run(algorithm, RunOptions(output_dir=folder, resume=True), settings, RunConsole()).run()
    return operations.count


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON Lines file without times."""
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [{key: value for key, value in row.items() if not key.startswith(("time/", "tokens_per"))} for row in found]


def difference(one: Path, other: Path) -> str | None:
    """Return in what two finished runs differ; None where they are the same."""
    import torch

    for name in ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl"):
        if rows(one / name) != rows(other / name):
            return name
    evaluations = [json.loads((folder / "evaluation.json").read_text()) for folder in (one, other)]
    if any(evaluations[0][when] != evaluations[1][when] for when in ("before", "after")):
        return "evaluation.json"
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (one, other)]
    if files[0] != files[1]:
        return f"files {sorted(set(files[0]) ^ set(files[1]))}"
    for path in files[0]:
        if path.suffix == ".safetensors" and (one / path).read_bytes() != (other / path).read_bytes():
            return str(path)
        if path.suffix == ".pt" and not same(*(torch.load(folder / path) for folder in (one, other))):
            return str(path)
    return None


def same(one: Any, other: Any) -> bool:
    """Return whether two nested states are equal to the last bit."""
    import torch

    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def crash(algorithm: str, policy: str, work: Path, *, kills: int, rng: random.Random) -> int:
    """Kill a run so many times, each time resuming it; return how often it came to its end.

    Raises:
        AssertionError: a life failed, or an end differs from that of a run without kills.
    """
    settings = SETTINGS | OWN.get(algorithm, {}) | {"policy": policy}
    whole, run, counted = work / "whole", work / "run", work / "operations.json"
    assert in_child(lambda: live(algorithm, settings, whole), counted) == 0, "the run without kills failed"
    operations, ends, killed = int(counted.read_text()), 0, 0
    while killed < kills or run.exists():
        kill_at, tear = (rng.randint(1, operations), rng.random() < 0.5) if killed < kills else (0, False)
        status = in_child(lambda at=kill_at, tear=tear: live(algorithm, settings, run, at, tear=tear))
        if status == -signal.SIGKILL:
            killed += 1
            continue
        assert status == 0, f"a life ended with {status}"
        found = difference(whole, run)
        assert found is None, f"after {killed} kills the end differs in {found}: {run}"
        ends += 1
        shutil.rmtree(run)
    return ends


@click.command()
@click.option("--algorithms", default=",".join(ALGORITHMS), show_default=True)
@click.option("--policies", default=",".join(POLICIES), show_default=True)
@click.option("--kills", type=click.IntRange(min=1), default=20, show_default=True, help="Kills of each run")
@click.option("--seed", type=int, help="Seed of the kills  [default: of the time]")
def main(algorithms: str, policies: str, kills: int, seed: int | None) -> None:
    """Kill and resume runs; exit with 1 where one does not end as a run without kills."""
    import tril_gym.agents
    import tril_gym.experiment.training  # noqa: F401  so that no child imports them

    seed = int(time.time()) if seed is None else seed
    click.echo(f"seed {seed}, {kills} kills each")
    failures = 0
    for algorithm, policy in itertools.product(algorithms.split(","), policies.split(",")):
        start, work = time.monotonic(), Path(tempfile.mkdtemp(prefix="crash-"))
        try:
            ends = crash(algorithm, policy, work, kills=kills, rng=random.Random(f"{seed} {algorithm} {policy}"))
        except AssertionError as error:
            failures += 1
            click.echo(f"{algorithm:11s} {policy:13s} FAILED: {error}")
            continue
        shutil.rmtree(work)
        click.echo(f"{algorithm:11s} {policy:13s} {ends} ends identical  {time.monotonic() - start:.0f} s")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
