"""The public names: each exists, documentation and examples import nothing else, and importing is cheap."""

import ast
import importlib
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator

import gymnasium as gym
import paths
import pytest

import tril_gym

ROOT = paths.ROOT
HEAVY = ("torch", "datasets", "peft", "wandb", "accelerate", "spacy", "sacrebleu", "matplotlib")
PACKAGES = [
    "tril_gym",
    *(
        f"tril_gym.{name}"
        for name in ("agents", "envs", "data", "rewards", "wrappers", "experiment", "models", "functional")
    ),
    "tril_gym.reward_model",
    "tril_gym.bridges",
    "tril_gym.testing",
]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.py"))]
PYTHON = re.compile(r"^```python[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def loaded_by(code):
    """Return the heavy packages that a fresh interpreter has loaded after some code."""
    code += f"\nimport sys; print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return set(output.rpartition("LOADED")[2].split())


def private_imports(source: str) -> Iterator[str]:
    """Yield what a piece of Python imports from the package without being public."""
    for node in ast.walk(ast.parse(textwrap.dedent(source))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
            yield from (name for name in modules if name.partition(".")[0] == "tril_gym" and name not in PACKAGES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "tril_gym":
            public = importlib.import_module(node.module).__all__ if node.module in PACKAGES else ()
            names = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            yield from (path for name, path in names.items() if name not in public and path not in PACKAGES)


def python_of(page) -> list[str]:
    """Return the Python blocks of a page, or the whole of a Python file."""
    text = page.read_text()
    return [text] if page.suffix == ".py" else PYTHON.findall(text)


def test_ids():
    ours = {name for name in gym.registry if name.startswith("tril/")}
    assert ours == {"tril/IMDB-v0", "tril/CommonGen-v0", "tril/TLDR-v0", "tril/HH-v0", "tril/Text-v0", "tril/Toy-v0"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_exists(package):
    module = importlib.import_module(package)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert len(set(module.__all__)) == len(module.__all__)


def test_all_lists_what_the_import_gives():
    code = "import json, types, tril_gym; print(json.dumps([n for n, v in vars(tril_gym).items()" + (
        " if not isinstance(v, types.ModuleType) and (n == '__version__' or not n.startswith('_'))]))"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert sorted(ast.literal_eval(output)) == sorted(tril_gym.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_documentation_imports_public_names_only(page):
    assert [name for block in python_of(page) for name in private_imports(block)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import tril_gym\nfrom tril_gym.agents import PPO", []),
        ("from tril_gym import rewards\nimport tril_gym.wrappers as w", []),
        ("from tril_gymnastics.agents import secret", []),
        ("import tril_gym.utils.cache", ["tril_gym.utils.cache"]),
        ("from tril_gym import utils", ["tril_gym.utils"]),
        ("def f():\n    from tril_gym.agents.tiny import tiny_policy", ["tril_gym.agents.tiny.tiny_policy"]),
        ("from tril_gym.agents import PPO, algorithms", ["tril_gym.agents.algorithms"]),
    ],
)
def test_private_imports_are_found(source, found):
    assert list(private_imports(source)) == found


def test_one_version():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == tril_gym.__version__
    assert re.search(rf"^## {re.escape(tril_gym.__version__)}$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_first_reset_loads_nothing_heavy():
    assert loaded_by("import gymnasium, tril_gym; gymnasium.make('tril/CommonGen-v0').reset()") == set()


def test_command_line_help_loads_no_torch():
    code = "from click.testing import CliRunner; from tril_gym.cli import main; "
    code += "assert all(CliRunner().invoke(main, words).exit_code == 0 for words in (['train', '--help'], ['list']))"
    assert loaded_by(code) == set()


def test_table_of_algorithms_loads_no_torch():
    code = "import tril_gym.experiment.algorithms, tril_gym.experiment.config; "
    assert loaded_by(code + "from tril_gym.experiment import ALGORITHMS, RunConfig") == set()


def test_loaded_packages_are_found():
    assert "torch" in loaded_by("import torch")
