"""Plant defects one by one and see whether the tests notice: `make mutants`, or `python scripts/mutants.py [WORD …]`.

Each row of `mutants.yaml` replaces one snippet of the package and names the tests that must fail then. A defect that no
test notices has survived: a test is missing. With words, only rows whose file, snippet or tests have one of them run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import yaml

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_suffix(".yaml")
WORKERS = os.cpu_count() or 1
TIMEOUT = 600  # seconds; a mutant that hangs is noticed as well
LEAST_KILLED = 0.95  # share; below this the command fails


@dataclass(frozen=True, slots=True)
class Mutant:
    """One planted defect."""

    file: str  # path from the root of the repository
    original: str  # a snippet that stands once in the file
    mutant: str  # what takes its place
    tests: str  # arguments of pytest

    @property
    def title(self) -> str:
        """Return one line that names the defect."""
        short = [" ".join(text.split())[:60] or "nothing" for text in (self.original, self.mutant)]
        return f"{self.file.removeprefix('tril_gym/')}: {short[0]} -> {short[1]}"

    def planted(self, source: str) -> str:
        """Return the file's source with the defect.

        Raises:
            ValueError: the snippet does not stand exactly once in the source.
        """
        if source.count(self.original) != 1:
            raise ValueError(f"{self.file}: {self.original!r} occurs {source.count(self.original)} times, not once")
        return source.replace(self.original, self.mutant)


def mutants() -> list[Mutant]:
    """Return the table."""
    return [Mutant(**row) for row in yaml.safe_load(TABLE.read_text())]


def fails(tests: str, folder: Path) -> bool:
    """Return whether the tests fail in a copy of the repository."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests.split()]
    variables = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return True
    if done.returncode not in (0, 1, 2):  # 2: a file could not be collected, which a planted defect may cause
        raise RuntimeError(f"pytest {tests} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode != 0


def copy_of_repository(folder: Path) -> Path:
    """Copy the files that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def fails_in_a_copy(tests: str, folders: Queue[Path]) -> bool:
    """Return whether tests fail in a free copy of the repository."""
    folder = folders.get()
    try:
        return fails(tests, folder)
    finally:
        folders.put(folder)


def is_killed(mutant: Mutant, folders: Queue[Path]) -> bool:
    """Return whether the tests of a mutant fail in a free copy of the repository that has its defect."""
    folder = folders.get()
    path = folder / mutant.file
    source = path.read_text()
    try:
        path.write_text(mutant.planted(source))
        return fails(mutant.tests, folder)
    finally:
        path.write_text(source)
        folders.put(folder)


def main(words: list[str]) -> int:
    """Run the chosen rows; return the exit code."""
    chosen = [m for m in mutants() if not words or any(word in f"{m.file} {m.original} {m.tests}" for word in words)]
    if not chosen:
        print(f"no row of {TABLE.name} has one of: {' '.join(words)}")
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        folders: Queue[Path] = Queue()
        for worker in range(WORKERS):
            folders.put(copy_of_repository(Path(scratch) / str(worker)))
        shared = ROOT.parent / "shared"
        if shared.is_dir():  # real data stand beside the repository
            (Path(scratch) / "shared").symlink_to(shared)
        with ThreadPoolExecutor(WORKERS) as pool:
            # Without a defect the tests pass, else their failure would prove nothing.
            groups = sorted({mutant.tests for mutant in chosen})
            for tests, failed in zip(
                groups, pool.map(lambda tests: fails_in_a_copy(tests, folders), groups), strict=True
            ):
                if failed:
                    print(f"pytest {tests} fails without any defect; mend that first")
                    return 2
            survivors = []
            for mutant, killed in zip(chosen, pool.map(lambda m: is_killed(m, folders), chosen), strict=True):
                print(f"{'killed  ' if killed else 'SURVIVED'}  {mutant.title}", flush=True)
                survivors += [] if killed else [mutant]
    killed_share = 1 - len(survivors) / len(chosen)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} killed ({killed_share:.0%}), {len(survivors)} survived")
    return int(killed_share < LEAST_KILLED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
