"""The tables of docs/reliability.md: each test that a row names exists, and the commands are those that are tested."""

import ast
import re

import paths
from bad_commands import BAD_COMMANDS

PAGE = paths.ROOT / "docs" / "reliability.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)(?:::(\w+))?`")
ROW = re.compile(r"^\| (?!---|input |fault |command )", re.MULTILINE)


def section(title):
    """Return the part of the page under a heading."""
    found = PAGE.read_text().partition(f"\n## {title}\n")[2]
    assert found, f"the page has no section {title!r}"
    return found.split("\n## ")[0]


def command_table():
    """Return the rows of the table of commands."""
    return "".join(
        f"| `tril-gym {command}` | {words.replace('{folder}/', '').replace('|', '¦')} |\n"
        for command, words in BAD_COMMANDS
    )


def test_every_named_test_exists():
    named = TEST.findall(PAGE.read_text())
    assert len(named) > 40
    for file, first, second in named:
        tree = ast.parse((paths.ROOT / file).read_text())
        known = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert {first, second or first} <= known, f"{file} has no {second or first}"


def test_every_row_of_bad_input_names_a_test():
    rows = [line for line in section("Bad input").splitlines() if ROW.match(line)]
    assert len(rows) >= 30
    for row in rows:
        assert TEST.search(row), row


def test_the_commands_are_those_that_are_tested():
    shown = section("Commands").split("<!-- commands -->")[1].split("<!-- /commands -->")[0]
    assert shown.split("| --- | --- |\n")[1].strip() == command_table().strip()


def test_there_are_60_bad_inputs():
    assert len(BAD_COMMANDS) >= 60
    assert len(set(BAD_COMMANDS)) == len(BAD_COMMANDS)
