"""The architecture: which package may import which. `scripts/structure.py` reads it from the source files."""

import ast
from collections import defaultdict

import paths
import pytest
from structure import ORDER, cycles, imported_modules, module_graph, package_of, package_table, sources, violations

from tril_gym.experiment.algorithms import ALGORITHMS

SOURCES = {module: source for module, source in sources().items() if module != "tril_gym"}


@pytest.mark.parametrize("module", SOURCES)
def test_imports_run_downward(module):
    assert violations(module, SOURCES[module]) == set()


def test_no_cycle_of_modules():
    assert cycles(module_graph(SOURCES)) == []


def test_contributing_shows_the_packages():
    shown = (paths.ROOT / "CONTRIBUTING.md").read_text().split("<!-- structure -->")[1].split("<!-- /structure -->")[0]
    assert shown.split("```")[1].strip() == package_table(SOURCES), "put the output of scripts/structure.py there"


def test_every_package_is_in_the_order():
    assert {package_of(module) for module in SOURCES} == set(ORDER)


def test_no_function_has_the_name_of_a_module_beside_it():
    modules = {module: {m.rpartition(".")[2] for m in SOURCES if m.rpartition(".")[0] == module} for module in SOURCES}
    for module, beside in modules.items():
        names = {name.rpartition(".")[2] for name in imported_modules(SOURCES[module])}
        defined = {node.name for node in ast.parse(SOURCES[module]).body if isinstance(node, ast.FunctionDef)}
        assert (names | defined) & beside == set(), module


def repeated_blocks(files, lines):
    """Return the places of every run of so many equal lines of code that stands more than once."""
    places = defaultdict(list)
    for name, source in files.items():
        code = [line.strip() for line in source.splitlines() if any(map(str.isalnum, line))]
        code = [line for line in code if not line.startswith(("import ", "from ", "#"))]
        for start in range(len(code) - lines + 1):
            places[tuple(code[start : start + lines])].append((name, code[start]))
    return [found for found in places.values() if len(found) > 1]


class TestAgents:
    def test_an_algorithm_is_a_file_of_eighty_lines(self):
        modules = {f"tril_gym.agents.algorithms.{spec.agent.partition(':')[0]}" for spec in ALGORITHMS.values()}
        assert {
            module: len(SOURCES[module].splitlines()) for module in modules if SOURCES[module].count("\n") > 80
        } == {}

    def test_no_block_of_ten_lines_stands_twice(self):
        agents = {module: source for module, source in SOURCES.items() if module.startswith("tril_gym.agents.")}
        assert repeated_blocks(agents, 10) == []
        lines = [f"x{number} = {number}" for number in range(11)]  # the control: the second has an import between
        twice = {"a": "\n".join(lines), "b": "\n\n".join([*lines[:5], "import os", *lines[5:10]])}
        assert repeated_blocks(twice, 10) == [[("a", "x0 = 0"), ("b", "x0 = 0")]]


class TestTheChecksThemselves:
    """Planted violations are found."""

    @pytest.mark.parametrize(
        ("module", "source", "wrong"),
        [
            ("agents.actors.policy", "from tril_gym.envs.toy import toy_config", {"tril_gym.envs.toy.toy_config"}),
            ("envs.toy", "import tril_gym.rewards", {"tril_gym.rewards"}),
            ("wrappers.vector", "def f():\n    from tril_gym import registration", {"tril_gym.registration"}),
            ("rewards.text.sari", "from tril_gym.rewards.base import Score", set()),
            ("utils.cache", "from tril_gym.data import Example", {"tril_gym.data.Example"}),
            ("registration", "import tril_gymnastics.cli", set()),
            (
                "utils.console",
                "if TYPE_CHECKING:\n    from tril_gym.experiment.build import X",
                {"tril_gym.experiment.build.X"},
            ),
            ("functional.losses", "import torch\nfrom tril_gym.functional.masked import select", set()),
            ("functional.kl", "import numpy as np\nimport torch", {"numpy"}),
            ("models.texts", "def f():\n    import gymnasium", {"gymnasium"}),
            ("data.readers", "import torch", {"torch"}),
            ("data.readers", "def f():\n    import torch", set()),
            (
                "agents.algorithms.ppo_pp",
                "from tril_gym.agents.algorithms.ppo import PPOConfig",
                {"tril_gym.agents.algorithms.ppo.PPOConfig"},
            ),
            (
                "agents.collection.collector",
                "from tril_gym.agents.learners.critic import Critic",
                {"tril_gym.agents.learners.critic.Critic"},
            ),
        ],
    )
    def test_violations(self, module, source, wrong):
        assert violations(f"tril_gym.{module}", source) == wrong

    def test_relative_imports(self):
        with pytest.raises(AssertionError, match="absolute imports only"):
            violations("tril_gym.agents.tiny", "from .envs import x")

    def test_cycles(self):
        lazy = {"a": "def f():\n    import b", "b": "import c", "c": "if TYPE_CHECKING:\n    import a", "d": "import a"}
        assert cycles(module_graph(lazy)) == [{"a", "b", "c"}]
