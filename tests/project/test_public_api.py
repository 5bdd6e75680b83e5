"""What users import, and what importing costs."""

import re
import subprocess
import sys
import tomllib

import gymnasium as gym
import paths
import pytest

import tril_gym
from tril_gym import agents, envs, rewards, wrappers

ROOT = paths.ROOT
HEAVY = ("torch", "datasets", "peft", "wandb", "accelerate", "spacy", "sacrebleu", "matplotlib")


def loaded_by(code):
    """The heavy packages that a fresh interpreter has loaded after some code."""
    code += f"\nimport sys; print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return set(output.rpartition("LOADED")[2].split())


def test_ids():
    ours = {name for name in gym.registry if name.startswith("tril/")}
    assert ours == {"tril/IMDB-v0", "tril/CommonGen-v0", "tril/TLDR-v0", "tril/Toy-v0"}


def test_every_public_name_exists():
    for module in (agents, envs, rewards, wrappers):
        assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_one_version():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == tril_gym.__version__
    assert re.search(rf"^## {re.escape(tril_gym.__version__)}$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_first_reset_loads_nothing_heavy():
    assert loaded_by("import gymnasium, tril_gym; gymnasium.make('tril/CommonGen-v0').reset()") == set()


def test_the_command_line_answers_without_torch():
    code = "from click.testing import CliRunner; from tril_gym.cli import main; "
    assert loaded_by(code + "assert CliRunner().invoke(main, ['train', '--help']).exit_code == 0") == set()
    assert loaded_by(code + "assert CliRunner().invoke(main, ['list']).exit_code == 0") == set()


def test_the_check_sees_what_is_loaded():
    assert "torch" in loaded_by("from tril_gym.agents import PPO")


def test_agents_load_on_first_use():
    assert loaded_by("import tril_gym.agents; assert 'PPO' in dir(tril_gym.agents)") == set()
    with pytest.raises(AttributeError, match="has no attribute 'PPOO'"):
        agents.PPOO  # noqa: B018
