"""The tables of docs/reliability.md: each names a test that exists, and there are as many rows as promised."""

import re

import paths
import pytest

PAGE = paths.ROOT / "docs" / "reliability.md"
ROW = re.compile(r"^\| (.+?) \| (.+?) \| (.+) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::\w+)*?::(test_\w+)`")


def rows(heading):
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None, heading
    return [row for row in ROW.findall(section[1]) if row[0] not in ("fault", "---")]


def test_there_are_twenty_faults():
    assert len(rows("Faults of parts")) >= 20


@pytest.mark.parametrize("row", rows("Faults of parts"), ids=lambda row: row[0])
def test_each_fault_has_its_test(row):
    found = TEST.findall(row[2])
    assert found, row
    for file, name in found:
        assert f"def {name}(" in (paths.ROOT / file).read_text(), (file, name)
