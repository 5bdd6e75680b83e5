"""The architecture: which package may import which. Read from the source files; nothing is imported here.

Lazy imports and those under `TYPE_CHECKING` count: a package that names another one depends on it.
"""

import ast

import paths
import pytest

PACKAGE = paths.ROOT / "tril_gym"

# A package imports itself and what stands before it. The longest matching name decides.
ORDER = (
    "utils",
    "functional",
    "data",
    "models",
    "rewards.base",
    "rewards.fitting",
    "rewards.registry",
    "rewards",  # the public names, all of which stand before this line
    "rewards.text",
    "rewards.neural",
    "envs",
    "wrappers",
    "registration",
    "agents.collection",
    "agents.actors",
    "agents.learners",
    "agents.algorithms",
    "agents.tiny",
    "agents",
    "experiment",
    "reward_model",
    "cli",
    "__main__",
)

# Never, whatever the order.
NEVER = {
    ("agents", "data"),
    ("agents", "envs"),
    ("agents", "rewards"),
    ("agents", "wrappers"),
    ("agents", "registration"),
    ("envs", "rewards"),
    ("envs", "models"),
    ("data", "models"),
    ("models", "data"),
    ("wrappers", "models"),
}
# Packages from outside that a package must not import, at any time.
FOREIGN = {
    "functional": {"transformers", "peft", "gymnasium", "numpy", "accelerate"},
    "models": {"gymnasium"},
    "envs": {"torch"},
    "wrappers": {"torch"},
}
MODULE_LEVEL_FOREIGN = {"data": {"torch"}, "rewards.text": {"torch"}}
ALGORITHMS = {"bc", "ppo", "ppo_pp", "aggrevated", "lols", "d2lols", "gail"}


def imported_modules(source: str, *, module_level: bool = False) -> set[str]:
    """Return every imported "package.module.name" of a file, wherever the import stands.

    Args:
        source: Python code.
        module_level: only what importing the file imports.
    """
    tree = ast.parse(source)
    names = set()
    for node in tree.body if module_level else ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only, so that a check is a comparison of strings"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def package_of(module: str) -> str | None:
    """Return the entry of `ORDER` that a module belongs to; None for the top level's own names."""
    parts = module.split(".")[1:]
    for depth in range(len(parts), 0, -1):
        if (name := ".".join(parts[:depth])) in ORDER:
            return name
    return None


def violations(module: str, source: str) -> set[str]:
    """Return the imports of a file that its place in the package forbids."""
    own = package_of(module)
    assert own is not None, f"name the package of {module} in ORDER"
    wrong = set()
    for name in imported_modules(source):
        if name.split(".")[0] != "tril_gym":
            top = own.split(".")[0]
            if name.split(".")[0] in FOREIGN.get(top, set()):
                wrong.add(name)
            continue
        other = package_of(name)
        if other is None:
            assert name in ("tril_gym", "tril_gym.__version__"), name
        elif ORDER.index(other) > ORDER.index(own) or (own.split(".")[0], other.split(".")[0]) in NEVER:
            wrong.add(name)
        elif own == "agents.algorithms" and (rival := name.split(".")[3]) in ALGORITHMS and not module.endswith(rival):
            wrong.add(name)  # an algorithm reads without opening another
    for package, banned in MODULE_LEVEL_FOREIGN.items():
        if own == package or own.startswith(f"{package}."):
            wrong |= {name for name in imported_modules(source, module_level=True) if name.split(".")[0] in banned}
    return wrong


def sources() -> dict[str, str]:
    """Return the code of each module by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


SOURCES = {module: source for module, source in sources().items() if module != "tril_gym"}


@pytest.mark.parametrize("module", SOURCES)
def test_imports_run_downward(module):
    assert violations(module, SOURCES[module]) == set()


def cycles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return groups of modules that import each other, directly or through others."""
    reach = {module: set(graph[module]) for module in graph}
    for middle in graph:
        for module in graph:
            if middle in reach[module]:
                reach[module] |= reach[middle]
    groups = {frozenset({other for other in reach[m] if m in reach[other]} | {m}) for m in graph if m in reach[m]}
    return [set(group) for group in groups]


def module_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Return which modules of the package each module imports. A package's `__init__` counts as a module of its own."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        graph[module] = set()
        for name in imported_modules(source):
            target = name if name in sources else name.rpartition(".")[0]
            if target in sources and target != module:
                graph[module].add(target)
    return graph


def test_no_cycle_of_modules():
    assert cycles(module_graph(SOURCES)) == []


def test_every_package_is_in_the_order():
    assert {package_of(module) for module in SOURCES} == set(ORDER)


def test_no_function_has_the_name_of_a_module_beside_it():
    modules = {module: {m.rpartition(".")[2] for m in SOURCES if m.rpartition(".")[0] == module} for module in SOURCES}
    for module, beside in modules.items():
        names = {name.rpartition(".")[2] for name in imported_modules(SOURCES[module])}
        defined = {node.name for node in ast.parse(SOURCES[module]).body if isinstance(node, ast.FunctionDef)}
        assert (names | defined) & beside == set(), module


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
