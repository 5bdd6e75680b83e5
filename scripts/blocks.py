"""The fenced blocks of a Markdown page, and how its Python runs: `python scripts/blocks.py docs/other_libraries.md`.

The Python blocks of a page run in order in one namespace. A mark after the language changes that:

- `no-run`: the block needs a network; it must be valid Python.
- `needs=MODULE`: it runs where the module is installed, and must be valid Python elsewhere.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(\w*)[ \t]*([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    mark: str
    code: str
    line: int  # of its first line of code

    @property
    def needs(self) -> str:
        """The module that a Python block needs; empty for none."""
        return self.mark.removeprefix("needs=") if self.mark.startswith("needs=") else ""


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    for match in FENCE.finditer(text):
        yield Block(match[1], match[2].strip(), match[3], text.count("\n", 0, match.start(3)) + 1)


def is_installed(module: str) -> bool:
    """Return whether a module can be imported."""
    return importlib.util.find_spec(module) is not None


def run_page(text: str, name: str, *, runs: Callable[[Block], bool] | None = None) -> int:
    """Run the Python of a page; return the number of blocks that ran. Tracebacks show the line numbers of the page.

    Args:
        text: the page.
        name: its name in tracebacks.
        runs: whether a block with or without a needed module runs; by default where the module is installed.
    """
    runs = runs or (lambda block: not block.needs or is_installed(block.needs))
    module, ran = types.ModuleType("page"), 0
    before, sys.modules["page"] = sys.modules.get("page"), module  # dataclasses look up the module that defines them
    try:
        for block in blocks(text):
            if block.language != "python":
                continue
            assert block.mark in ("", "no-run") or block.needs, f"{name}:{block.line}: unknown mark {block.mark!r}"
            code = "\n" * (block.line - 1) + block.code
            if block.mark == "no-run" or not runs(block):
                ast.parse(code, name)
            else:
                exec(compile(code, name, "exec"), module.__dict__)
                ran += 1
    finally:
        del sys.modules["page"]
        if before is not None:
            sys.modules["page"] = before
    return ran


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        print(f"{page}: {run_page(page.read_text(), page.name)} blocks ran")
