"""The structure of the package, read from its source files: `python scripts/structure.py` prints it.

`ORDER` and `NEVER` are the architecture. `tests/project/test_layers.py` checks every file against them, and
`CONTRIBUTING.md` shows what this prints. Lazy imports and those under `TYPE_CHECKING` count: a package that names
another one depends on it.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from statistics import median

PACKAGE = Path(__file__).parents[1] / "tril_gym"

# A package imports itself and the packages before it in this list. The longest matching name decides.
ORDER = (
    "utils",
    "functional",
    "data",
    "models",
    "rewards.base",
    "rewards.fitting",
    "rewards.retries",
    "rewards.functions",
    "rewards.registry",
    "rewards",  # its public names, all defined in the packages before
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
    "bridges",
    "testing",
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

# Other libraries that a package must not import, at any time and at import time.
NEVER_FOREIGN = {
    "functional": {"transformers", "peft", "gymnasium", "numpy", "accelerate"},
    "models": {"gymnasium"},
    "envs": {"torch"},
    "wrappers": {"torch"},
}
LAZY_FOREIGN = {"data": {"torch"}, "rewards.text": {"torch"}}
ALGORITHMS = {"bc", "ppo", "ppo_pp", "aggrevated", "lols", "d2lols", "gail"}


def sources() -> dict[str, str]:
    """Return the code of each module by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


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
    assert own is not None, f"name the package of {module} in ORDER of scripts/structure.py"
    top = own.split(".")[0]
    wrong = set()
    for name in imported_modules(source):
        if name.split(".")[0] != "tril_gym":
            if name.split(".")[0] in NEVER_FOREIGN.get(top, set()):
                wrong.add(name)
            continue
        other = package_of(name)
        if other is None:
            assert name in ("tril_gym", "tril_gym.__version__"), name
        elif ORDER.index(other) > ORDER.index(own) or (top, other.split(".")[0]) in NEVER:
            wrong.add(name)
        elif own == "agents.algorithms" == other:
            rival = name.split(".")[3]
            if rival in ALGORITHMS and not module.endswith(f".{rival}"):
                wrong.add(name)  # an algorithm reads without opening another
    for package, lazy in LAZY_FOREIGN.items():
        if own == package or own.startswith(f"{package}."):
            wrong |= {name for name in imported_modules(source, module_level=True) if name.split(".")[0] in lazy}
    return wrong


def module_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Return which modules each module imports. A package's `__init__` counts as a module of its own."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        names = imported_modules(source)
        targets = {name if name in sources else name.rpartition(".")[0] for name in names}
        graph[module] = {target for target in targets if target in sources and target != module}
    return graph


def cycles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the groups of modules that import each other, directly or through others."""
    reach = {module: set(graph[module]) for module in graph}
    for middle in graph:
        for module in graph:
            if middle in reach[module]:
                reach[module] |= reach[middle]
    groups = {frozenset({other for other in reach[m] if m in reach[other]} | {m}) for m in graph if m in reach[m]}
    return [set(group) for group in groups]


def package_imports(sources: dict[str, str]) -> dict[str, list[str]]:
    """Return what each package imports of the others, in the order of the architecture."""
    found: dict[str, set[str]] = {package: set() for package in ORDER}
    for module, source in sources.items():
        own = package_of(module)
        if own is not None:
            names = {name for name in imported_modules(source) if name.startswith("tril_gym.")}
            found[own] |= {other for name in names if (other := package_of(name)) not in (None, own)}
    return {package: [other for other in ORDER if other in found[package]] for package in ORDER}


def function_lengths(sources: dict[str, str]) -> dict[str, int]:
    """Return the lines of each function and method, decorators and docstring included."""
    return {
        f"{module}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
    }


def package_table(sources: dict[str, str]) -> str:
    """Return one line per package: what it imports of the others."""
    return "\n".join(f"{package:18} {', '.join(names) or '-'}" for package, names in package_imports(sources).items())


def report() -> str:
    """Return the structure as text: packages with their imports, and sizes."""
    known = {module: source for module, source in sources().items() if module != "tril_gym"}
    code = {module: source for module, source in known.items() if not module.startswith("tril_gym.data.embedded")}
    files = Counter(path.parent.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py"))
    sizes = {module: len(source.splitlines()) for module, source in code.items()}
    lengths = function_lengths(code)
    largest_file, largest_function = max(sizes, key=sizes.__getitem__), max(lengths, key=lengths.__getitem__)
    wrong = {module: found for module, source in known.items() if (found := violations(module, source))}
    return "\n".join(
        [
            package_table(known),
            "",
            f"modules: {len(known)}; wrong imports: {len(wrong)}; cycles: {len(cycles(module_graph(known)))}",
            f"files per folder: {', '.join(f'{folder.as_posix()} {count}' for folder, count in files.most_common())}",
            f"lines of a file: median {median(sizes.values()):g}, largest {sizes[largest_file]} ({largest_file})",
            f"lines of a function: median {median(lengths.values()):g}, largest {lengths[largest_function]}"
            f" ({largest_function})",
        ]
    )


if __name__ == "__main__":
    print(report())
