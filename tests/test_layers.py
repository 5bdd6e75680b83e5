"""The architecture: which part may import which. Read off the files, so nothing is imported here."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tril_gym"

# Each part may import itself and these; what stands under TYPE_CHECKING is not imported.
LEAVES = {"sharing", "cache", "folders", "infos", "quiet", "threads", "user_code"}  # which everybody may know
KNOW_NOBODY = LEAVES | {"envs", "rewards", "agents", "presets", "tracking"}
TASKS = {"tasks", "wrappers", "rewards", "envs"}
PARTS: dict[str, set[str]] = {part: set() for part in KNOW_NOBODY} | {
    "wrappers": {"rewards"},
    "tasks": TASKS,
    "algorithms": {"agents"},
    "checkpoint": {"algorithms", "agents"},
    "report": {"agents"},
    "evaluate": TASKS | {"agents", "metrics"},
    "metrics": {"rewards", "wrappers"},
    "pairs": {"envs"},
    "reward_network": {"agents", "rewards", "pairs"},
    "reward_model": {"agents", "reward_network"},
    "reward_model_parts": {"pairs", "reward_model", "reward_network", "rewards"},
    "reward_model_run": {"checkpoint", "pairs", "report", "reward_model_parts", "reward_network", "train"},
    "settings": {"algorithms", "presets", "checkpoint"},
    "run_envs": TASKS | {"agents", "settings"},
    "run_actors": {"agents", "presets", "settings"},
    "run": {"agents", "algorithms", "checkpoint", "settings", "run_envs", "run_actors"},
    "train": TASKS | {"agents", "settings", "run", "checkpoint", "evaluate", "report", "tracking"},
    "cli": TASKS
    | {"agents", "algorithms", "presets", "settings", "run", "metrics", "train", "evaluate", "report", "checkpoint"}
    | {"reward_model", "reward_model_parts", "reward_model_run"},
    "__main__": {"cli"},
}

# Within agents: mathematics knows torch and itself, machinery knows mathematics and itself, an algorithm knows both and
# no other algorithm.
MATHEMATICS = {"masked", "returns", "losses", "kl", "decoding"}
ALGORITHMS = {"bc", "ppo", "ppo_pp", "aggrevated", "lols", "d2lols", "gail"}
NEUTRAL = {"bc"}  # whose learner warms up the tiny policies, and which needs no other algorithm
MAY_IMPORT_TORCH_ONLY = {"torch", "collections", "dataclasses", "typing", "math", "__future__"}


def imported_names(source: str) -> set[str]:
    """Everything that a file imports, wherever it does so: "package.module.name"."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only, so that a check is a comparison of strings"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def typing_only(source: str) -> set[str]:
    """What a file imports under `if TYPE_CHECKING`: never at run time."""
    blocks = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    return set().union(*(imported_names("\n".join(map(ast.unparse, block.body))) for block in blocks))


def within(package: str, names: set[str]) -> set[str]:
    """The modules of a package among imported names: "tril_gym.agents.kl.x" is "kl" of "tril_gym.agents"."""
    depth = package.count(".") + 1
    return {name.split(".")[depth] for name in names if name.startswith(f"{package}.")}


def wrong_parts(part: str, source: str) -> set[str]:
    """The parts of the package that a file of `part` imports, and must not."""
    names = imported_names(source) - typing_only(source)
    return within("tril_gym", names) - PARTS[part] - LEAVES - {part, "__version__"}


def wrong_agents(module: str, source: str) -> set[str]:
    """The modules of `tril_gym.agents`, and for mathematics of anybody, that a file of agents imports, and must not."""
    names = imported_names(source) - typing_only(source)
    known = within("tril_gym.agents", names)
    if module in MATHEMATICS:
        foreign = {name.split(".")[0] for name in names} - MAY_IMPORT_TORCH_ONLY - {"tril_gym"}
        return (known - MATHEMATICS) | foreign
    if module in ALGORITHMS:
        return known & (ALGORITHMS - {module})
    return known & (ALGORITHMS - NEUTRAL)


def files() -> list[tuple[str, Path]]:
    """(part, file) of the whole package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        top = path.relative_to(PACKAGE).parts[0]
        if top != "__init__.py":
            found.append((top.removesuffix(".py"), path))
    return found


@pytest.mark.parametrize(("part", "path"), files(), ids=lambda x: x.name if isinstance(x, Path) else x)
def test_parts_import_downward_only(part, path):
    assert part in PARTS, f"say in tests/test_layers.py what {part} may import"
    assert wrong_parts(part, path.read_text()) == set()


@pytest.mark.parametrize("path", sorted((PACKAGE / "agents").glob("*.py")), ids=lambda path: path.stem)
def test_agents_have_three_levels(path):
    if path.stem != "__init__":  # which shows the public names of all levels
        assert wrong_agents(path.stem, path.read_text()) == set()


def test_there_is_something_to_check():
    agents = {path.stem for part, path in files() if part == "agents"}
    assert agents >= MATHEMATICS | {"bc", "ppo", "ppo_pp", "update", "collect"}
    assert len(files()) > 40
    assert {part for part, _ in files()} >= {"envs", "rewards", "wrappers", "tasks", "agents"}


class TestTheCheckersThemselves:
    """Planted violations are found."""

    @pytest.mark.parametrize(
        ("part", "source", "wrong"),
        [
            ("agents", "from tril_gym.envs.toy import toy_problem", {"envs"}),
            ("envs", "import tril_gym.rewards", {"rewards"}),
            ("wrappers", "def f():\n    from tril_gym import tasks, rewards", {"tasks"}),
            ("rewards", "from tril_gym.sharing import share\nfrom tril_gym.rewards.score import Score", set()),
            ("cache", "from tril_gym.envs import Example", {"envs"}),
            ("tasks", "import tril_gymnastics.cli", set()),
            ("report", "if TYPE_CHECKING:\n    from tril_gym.run import Parts", set()),
            ("evaluate", "from tril_gym.train import train", {"train"}),
        ],
    )
    def test_parts(self, part, source, wrong):
        assert wrong_parts(part, source) == wrong

    @pytest.mark.parametrize(
        ("module", "source", "wrong"),
        [
            ("losses", "import torch\nfrom tril_gym.agents.masked import select", set()),
            ("losses", "from tril_gym.agents.policy import LMPolicy", {"policy"}),
            ("kl", "import numpy as np\nimport torch", {"numpy"}),
            ("ppo_pp", "from tril_gym.agents.update import ActorCritic", set()),
            ("ppo_pp", "from tril_gym.agents.ppo import PPOConfig", {"ppo"}),
            ("update", "from tril_gym.agents.ppo_pp import PPOPlusPlus", {"ppo_pp"}),
            ("tiny", "from tril_gym.agents.bc import Imitation", set()),
            ("learn", "if TYPE_CHECKING:\n    from tril_gym.agents.ppo import PPO", set()),
        ],
    )
    def test_agents(self, module, source, wrong):
        assert wrong_agents(module, source) == wrong

    def test_relative_imports(self):
        with pytest.raises(AssertionError, match="absolute imports only"):
            wrong_parts("agents", "from .envs import x")
