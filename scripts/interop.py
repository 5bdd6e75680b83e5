"""Train with the real libraries, each in a virtual environment of its own, and print a table of what they reach.

The blocks of docs/other_libraries.md run there, too.

python scripts/interop.py [--only NAME]... [--again] [--write]

Environments, logs and results are in .interop/. What is installed or has run is not repeated, so that the script can be
interrupted; --again repeats the runs. --write puts the table into docs/other_libraries.md, and the results into
benchmarks/results/interop.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".interop"
PAGE = ROOT / "docs/other_libraries.md"
RESULTS = ROOT / "benchmarks/results/interop.json"
MARKS = "<!-- interop -->\n", "<!-- /interop -->"
TORCH = "torch==2.13.0"  # pinned, since libraries accept any, and the newest may come with gigabytes of CUDA
TIMEOUT = 3600  # seconds of a run
REWARD = re.compile(r"^reward (-?[\d.]+) -> (-?[\d.]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Library:
    """A library, and the example that trains with it."""

    name: str  # also of its example in examples/libraries
    package: str  # whose version the table shows
    requirements: tuple[str, ...]
    entry_point: str
    env_id: str = "tril/Toy-v0"
    venv: str = ""  # that of another library; by default its own

    @property
    def python(self) -> Path:
        """The interpreter of its virtual environment."""
        return FOLDER / (self.venv or self.name) / "bin/python"

    @property
    def result(self) -> Path:
        """The file with its result."""
        return FOLDER / f"{self.name}.json"


SB3 = ("stable-baselines3==2.9.2", "sb3-contrib==2.9.2")
LIBRARIES = (
    Library("stable_baselines3_ppo", "stable-baselines3", SB3, "make_vec_env(id), PPO", venv="sb3"),
    Library("maskable_ppo", "sb3-contrib", SB3, "StableBaselinesVecEnv, MaskablePPO", venv="sb3"),
    Library("cleanrl_style_ppo", "gymnasium", SB3, "gym.make_vec(id), CleanRL's loop", venv="sb3"),
    Library(
        "torchrl_ppo", "torchrl", ("torchrl==0.14.1", "tensordict==0.14.3"), "GymWrapper, Collector", venv="torchrl"
    ),
    Library("rllib_ppo", "ray", ("ray[rllib]==2.60.0",), "PPOConfig().environment(id)", venv="rllib"),
    Library("tianshou_ppo", "tianshou", ("tianshou==2.0.1",), "DummyVectorEnv, PPO", venv="tianshou"),
    Library("skrl_ppo", "skrl", ("skrl[torch]==2.1.1",), "wrap_env, PPO", venv="skrl"),
    Library("trl_grpo", "trl", ("trl==1.16.0",), "prompt_dataset, GRPOTrainer", venv="trl"),
)


@dataclass(frozen=True)
class Result:
    """What a library reached."""

    package: str
    version: str
    gymnasium: str
    entry_point: str
    env_id: str
    before: float  # mean reward before training, and after
    after: float
    seconds: float


def install(library: Library) -> None:
    """Make the virtual environment of a library, unless it is there with these requirements."""
    wanted = "\n".join([TORCH, *library.requirements])
    folder = library.python.parents[1]
    done = folder / "installed.txt"
    if done.exists() and done.read_text() == wanted:
        return
    print(f"installing {', '.join(library.requirements)} in {folder.relative_to(ROOT)}", flush=True)
    FOLDER.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(library.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run_logged(f"{folder.name}.pip", [*pip, TORCH, *library.requirements, "-e", str(ROOT)])
    done.write_text(wanted)


def run(library: Library) -> Result:
    """Run the blocks of the page and the example of a library."""
    print(f"running the blocks of {PAGE.name} and examples/libraries/{library.name}.py", flush=True)
    run_logged(f"{library.name}.blocks", [str(library.python), str(ROOT / "scripts/blocks.py"), str(PAGE)])
    begin = time.perf_counter()
    output = run_logged(library.name, [str(library.python), str(ROOT / f"examples/libraries/{library.name}.py")])
    found = REWARD.findall(output)
    if not found:
        raise RuntimeError(f"{library.name} printed no line with rewards; see {FOLDER / library.name}.log")
    return Result(
        package=library.package,
        version=version(library, library.package),
        gymnasium=version(library, "gymnasium"),
        entry_point=library.entry_point,
        env_id=library.env_id,
        before=float(found[-1][0]),
        after=float(found[-1][1]),
        seconds=round(time.perf_counter() - begin),
    )


def run_logged(name: str, command: list[str]) -> str:
    """Run a command in the folder, and return its output, which is kept in a log."""
    log = FOLDER / f"{name}.log"
    # one thread: a second one makes networks this small slower where other programs run
    env = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("w") as file:
        done = subprocess.run(command, cwd=FOLDER, env=env, stdout=file, stderr=subprocess.STDOUT, timeout=TIMEOUT)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode} of {' '.join(command)}; see {log}")
    return log.read_text(errors="replace")


def version(library: Library, package: str) -> str:
    """Return the version of a package in the virtual environment of a library."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([str(library.python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def table(results: list[Result]) -> str:
    """Return the results as a Markdown table."""
    rows = ["| library | version | gymnasium | entry point | environment | reward before | after |"]
    rows.append("| --- | --- | --- | --- | --- | ---: | ---: |")
    for it in results:
        name = "CleanRL's style" if it.package == "gymnasium" else it.package
        own = "" if it.package == "gymnasium" else it.version
        figures = f"{it.before:.2f} | {it.after:.2f}"
        rows.append(f"| {name} | {own} | {it.gymnasium} | `{it.entry_point}` | `{it.env_id}` | {figures} |")
    return "\n".join(rows)


def write(results: list[Result]) -> None:
    """Put the table into the page, and the results into a file."""
    begin, end = MARKS
    before, rest = PAGE.read_text().split(begin)
    PAGE.write_text(f"{before}{begin}{table(results)}\n{end}{rest.split(end)[1]}")
    RESULTS.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[library.name for library in LIBRARIES], default=[])
    parser.add_argument("--again", action="store_true", help="repeat runs that have a result")
    parser.add_argument("--write", action="store_true", help="write the table into the documentation")
    arguments = parser.parse_args()
    failed = []
    for library in LIBRARIES:
        if arguments.only and library.name not in arguments.only:
            continue
        try:
            install(library)
            if arguments.again or not library.result.exists():
                library.result.write_text(json.dumps(asdict(run(library))))
        except (RuntimeError, subprocess.SubprocessError) as error:
            print(error, flush=True)
            failed.append(library.name)
    missing = [library.name for library in LIBRARIES if not library.result.exists()]
    found = [Result(**json.loads(it.result.read_text())) for it in LIBRARIES if it.result.exists()]
    print(table(found))
    if missing:
        print(f"without a result yet: {', '.join(missing)}")
    elif arguments.write and not failed:
        write(found)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
