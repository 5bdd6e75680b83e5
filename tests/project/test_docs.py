"""The documentation is correct: its Python runs, its commands parse, and the names and files in it exist.

`scripts/blocks.py` runs the Python of a page, and says what the marks of blocks mean.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import gymnasium as gym
import paths
import pytest
import torch
from algorithm_pages import METRICS
from blocks import FENCE, blocks, is_installed, run_page
from seven import SEVEN

from tril_gym import rewards
from tril_gym.agents import tiny
from tril_gym.cli import main
from tril_gym.cli.options import take_env_args
from tril_gym.cli.run_options import RunOptions
from tril_gym.experiment import presets
from tril_gym.experiment.algorithms import ALGORITHMS, agent_type
from tril_gym.experiment.resolution import configure
from tril_gym.experiment.resuming import MAY_CHANGE

ROOT = paths.ROOT
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
NAME = re.compile(r"`(tril_gym(?:\.\w+)+)`")
FILE = re.compile(r"`((?:tril_gym|examples|tests|docs)/[\w./]+)`")
LAUNCHERS = {"accelerate", "torchrun"}  # of `-m tril_gym`
OTHER_PROGRAMS = {"cd", "export", "git", "pip", "python3.11", "source"}  # programs outside the project
PLACEHOLDERS = {"ALGORITHM"}  # a line that shows the form of a command

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def commands(text: str) -> Iterator[list[str]]:
    """Yield the commands of a page's shell blocks as lists of words, up to a pipe or redirection."""
    for block in blocks(text):
        assert block.language in ("python", "bash", "text", "json", "yaml"), block
        if block.language == "bash":
            for line in block.code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                for end in ("|", ">", "&&"):
                    words = words[: words.index(end)] if end in words else words
                if words:
                    yield words


def check_command(words: list[str]) -> None:
    """Fail if a command or one of its options does not exist."""
    while "=" in words[0]:  # VARIABLE=value before a command
        words = words[1:]
    program, *arguments = words
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets), f"make has no {arguments}"
    elif program in ("python", ".venv/bin/python") and arguments[0].endswith(".py"):
        assert (ROOT / arguments[0]).is_file(), arguments[0]
    elif program.removeprefix(".venv/bin/") == "tril-gym":
        check_tril_gym(arguments)
    elif program in LAUNCHERS:
        check_tril_gym(arguments[arguments.index("tril_gym") + 1 :])
    else:
        assert program in OTHER_PROGRAMS, f"unknown program {program}"


def check_tril_gym(words: list[str]) -> None:
    """Parse the arguments of `tril-gym`, and fail if a named reward, environment or preset does not exist."""
    if PLACEHOLDERS & set(words):
        return
    command: click.Command = main
    context = click.Context(main, info_name="tril-gym")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        found = command.get_command(context, name)
        assert found is not None, f"tril-gym has no {name}"
        command, context = found, click.Context(found, parent=context, info_name=name)
    try:
        values = command.make_context(context.info_name, list(words), parent=context.parent).params
    except click.exceptions.Exit:  # --help and --version
        return
    named = {*(values.get("reward") or {}), *(values.get("metrics") or ())}
    assert {name for name in named if ":" not in name} <= set(rewards.names()), named  # module:function is user code
    assert values.get("env") is None or values["env"] in gym.registry, values["env"]
    assert values.get("preset") is None or values["preset"] in presets.names(), values["preset"]
    if context.info_name in ALGORITHMS:
        check_run(context.info_name, values)


def check_run(algorithm: str, values: dict[str, Any]) -> None:
    """Fail for settings that a run rejects before it reads any data."""
    chosen = RunOptions.taken_from(values)
    assert chosen.tracker is not None  # its options fit together
    values["env_args"] = take_env_args(values)
    given = {name: value for name, value in values.items() if value is not None and value != {}}
    if chosen.resume:
        assert chosen.output_dir is not None, "--resume needs --output-dir"
        assert set(given) <= set(MAY_CHANGE), "a resumed run might reject other settings"
        return
    configure(algorithm, **given)
    assert "guide" not in given or agent_type(algorithm).takes_guide, f"{algorithm} takes no guide"


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def first_column(page: Path, heading: str) -> list[str]:
    """Return the names in the first column of the first table under a heading."""
    section = re.search(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None, f"{page.name} has no heading {heading}"
    return re.findall(r"^\| `([^`]+)`", section[1], re.MULTILINE)


@pytest.fixture
def _short_pretraining(monkeypatch):
    """Pretrain tiny models on a few texts: whether a page runs does not depend on how well they write."""
    settings_of = tiny.settings_of

    def short(kind, given):
        settings = settings_of(kind, given)
        return replace(settings, samples=min(settings.samples, 64))

    monkeypatch.setattr(tiny, "settings_of", short)


@pages
@pytest.mark.usefixtures("_short_pretraining")
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page.read_text(), page.name, runs=lambda block: not block.needs)


LIBRARIES = sorted({block.needs for page in PAGES for block in blocks(page.read_text()) if block.needs})


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the library, about itself
def test_blocks_of_a_library_run(library, tmp_path, monkeypatch):
    if not is_installed(library):
        pytest.skip(f"{library} is not installed; `make interop` runs its blocks in an environment of its own")
    monkeypatch.chdir(tmp_path)
    for page in PAGES:
        text = page.read_text()
        if any(block.needs == library for block in blocks(text)):
            with torch.random.fork_rng():
                run_page(text, page.name, runs=lambda block: block.needs == library)


@pages
@pytest.mark.filterwarnings("ignore:top_k=50")  # of a preset
def test_commands_exist(page):
    for words in commands(page.read_text()):
        check_command(words)


@pages
def test_links_names_and_files_exist(page):
    text = page.read_text()
    for target, anchor in LINK.findall(text):
        there = page.parent / target if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"
    for name in NAME.findall(text):
        assert exists(name), name
    for file in FILE.findall(text):
        assert (ROOT / file).exists(), file


def exists(name: str) -> bool:
    """Return whether a dotted name is a module, or an attribute of one."""
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute) or importlib.util.find_spec(name) is not None
    except ImportError:
        return False


def test_pages_have_python_and_commands():
    texts = [page.read_text() for page in PAGES]
    assert sum(block.language == "python" and not block.mark for text in texts for block in blocks(text)) > 20
    assert sum(len(list(commands(text))) for text in texts) > 20


def test_index_lists_every_page():
    index = (ROOT / "docs/README.md").read_text()
    for page in PAGES:
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def test_every_metadata_key_is_documented():
    documented = first_column(ROOT / "docs/environments.md", "Metadata")
    sometimes = {"main_process_reward", "max_episode_steps"}  # with such a reward, or with a limit
    assert sorted(documented) == sorted({*gym.make("tril/Text-v0").metadata["text"], *sometimes})  # names no reward


def test_every_info_key_is_documented():
    env = gym.make("tril/Toy-v0")
    env.reset(seed=0)
    *_, info = env.step(env.metadata["text"]["eos_token_ids"][0])
    assert sorted(first_column(ROOT / "docs/environments.md", "Info")) == sorted(info)


def test_every_environment_reward_and_algorithm_is_listed():
    environments, shell = ROOT / "docs/environments.md", ROOT / "docs/command_line.md"
    assert sorted(first_column(environments, "Ids")) == sorted(id for id in gym.registry if id.startswith("tril/"))
    assert first_column(ROOT / "docs/rewards.md", "Registry") == rewards.names()
    family = first_column(ROOT / "docs/which_algorithm.md", "The family")
    assert [*first_column(shell, "Train"), *family] == list(ALGORITHMS)
    assert first_column(ROOT / "README.md", "Agents") == [agent_type(name).__name__ for name in SEVEN]


@pytest.fixture(scope="module")
def run_folders(tmp_path_factory):
    """Run algorithms that have all metrics between them for two small iterations; return the run folders."""
    from rich.console import Console

    from tril_gym.experiment import RunConsole, train

    small = {"env": "tril/Toy-v0", "reward": {"cider_d": 1.0}, "num_envs": 8, "eval_examples": 2, "iterations": 2}
    small["eval_every"] = 1
    names = (*SEVEN, "grpo", "online-dpo", "rebel")
    own = {name: {"target_coef": 0.1} for name in names if name != "bc"}  # which is nothing but that
    own["ppo"] |= {"scale_rewards": True}
    own["ppo-pp"] |= {"baseline": "rollin"}
    own["aggrevated"] |= {"allow_full_rollins": True, "num_envs": 32}
    own["d2lols"] |= {"aggrevated_iterations": 1, "hand_over": "quality", "hand_over_margin": 9.0}
    own["grpo"] |= {"given_texts": 1}
    own["gail"] |= {"gradient_penalty": 0.1}
    own["online-dpo"] |= {"reward": None}  # the environment's own, by which texts of a pair differ
    folders = {}
    for name in names:
        config = configure(name, **small | own.get(name, {}))
        folder = tmp_path_factory.mktemp(name) / "run"
        folders[name] = train(config, folder, console=RunConsole(Console(quiet=True))).folder
    return folders


@pytest.mark.parametrize("page", ["which_algorithm", "command_line"])
def test_options_that_make_an_algorithm_another_one_are_found(page):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    options = ("--best-of", "--given-texts", "--hand-over quality", "--guide successes", "--discriminator-level token")
    for option in (*options, "--reference-every", "--pairing tournament"):
        assert option in text, option


def test_every_metric_of_a_run_is_documented(run_folders):
    metrics = {name: set() for name in run_folders}
    for name, folder in run_folders.items():
        for line in (folder / "metrics.jsonl").read_text().splitlines():
            metrics[name] |= {"score/NAME" if metric.startswith("score/") else metric for metric in json.loads(line)}
    of_settings = {"memory/PART", "policy/importance_share"}  # that these runs do not have
    of_settings |= {"overlap/collect_seconds", "overlap/score_seconds", "steps/skipped"}
    of_settings |= set(METRICS["ppg"])  # which is not among these runs
    of_settings |= {f"guide/{name}" for name in ("requests", "failures", "seconds", "tokens")}
    assert set().union(*metrics.values()) | of_settings == set(first_column(ROOT / "docs/command_line.md", "Metrics"))
    # These belong to some algorithms only.
    assert {name for name in metrics if "discriminator/loss" in metrics[name]} == {"gail"}
    assert {name for name in metrics if "guide_critic/loss" in metrics[name]} >= {"aggrevated", "d2lols"}
    assert {name for name in metrics if "rollin/share" in metrics[name]} >= {"ppo-pp", "aggrevated", "d2lols"}


def test_every_held_out_metric_is_documented(run_folders):
    metrics = set()
    for folder in run_folders.values():
        for found in json.loads((folder / "evaluation.json").read_text())["after"]["metrics"].values():
            metrics |= {"score/NAME" if metric.startswith("score/") else metric for metric in found}
    of_evaluate = {"metric/NAME"}
    assert metrics | of_evaluate == set(first_column(ROOT / "docs/command_line.md", "Held-out metrics"))


def test_every_file_of_a_run_is_documented(run_folders):
    files = {path.name + "/" * path.is_dir() for folder in run_folders.values() for path in folder.iterdir()}
    assert files == set(first_column(ROOT / "docs/command_line.md", "The run folder"))


# Negative controls of the checks.


def test_a_broken_block_fails():
    assert run_page("```python\nx = 1\n```\ntext\n```python\nassert x == 1\n```\n", "page.md") == 2
    with pytest.raises(NameError, match="y"):
        run_page("```python\nx = 1\n```\n```python\ny\n```\n", "page.md")
    with pytest.raises(SyntaxError):
        run_page("```python no-run\nimport a b\n```\n", "page.md")
    with pytest.raises(AssertionError, match="unknown mark"):
        run_page("```python skip\nx\n```\n", "page.md")


def test_blocks_of_a_library_are_apart():
    page = "```python needs=no_such_module\nimport no_such_module\n```\n```python needs=json\nimport json\n```\n"
    assert run_page(page, "page.md") == 1
    with pytest.raises(ModuleNotFoundError):
        run_page(page, "page.md", runs=lambda block: block.needs == "no_such_module")


def test_a_no_run_block_is_not_run():
    assert run_page("```python no-run\nimport no_such_module\n```\n", "page.md") == 0


@pytest.mark.parametrize(
    "line",
    [
        "tril-gym train ppo --no-such-option 1",
        "tril-gym train no-such-algorithm",
        "tril-gym train bc --gamma 0.9",
        "tril-gym train ppo --iterations many",
        "tril-gym train ppo --reward no_such_reward",
        "tril-gym train ppo --env tril/Nothing-v0",
        "tril-gym train ppo --guide tiny",
        "tril-gym train ppo --clip-range 2",
        "tril-gym train ppo --resume",
        "tril-gym train ppo --resume --output-dir runs/a --seed 1",
        "tril-gym evaluate",
        "tril-gym list nothing",
        "make nothing",
        "python examples/nothing.py",
        "no-such-program",
    ],
)
def test_a_wrong_command_fails(line):
    [words] = commands(f"```bash\n{line}\n```\n")
    with pytest.raises((AssertionError, ValueError, click.UsageError)):
        check_command(words)


def test_a_right_command_passes():
    for line in (
        "tril-gym train ppo --kl-coef 0.1 \\\n  --reward rouge_l:0.5  # words",
        "tril-gym --help",
        "make test",
    ):
        assert [check_command(words) for words in commands(f"```bash\n{line}\n```\n")] == [None]


def test_an_unknown_name_fails():
    assert exists("tril_gym.functional.returns.gae")
    assert not exists("tril_gym.functional.returns.gea")
    assert not exists("tril_gym.nothing.gae")
