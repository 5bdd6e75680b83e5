"""The tables of docs/results_small.md are those of the runs that are kept."""

import pytest
from results_page import PAGE, page, rows_of, with_table


def test_the_page_is_as_the_script_writes_it():
    assert PAGE.read_text() == page(PAGE.read_text()), "run scripts/results_page.py"


def test_a_changed_number_is_found():
    text = PAGE.read_text()
    changed = text.replace("| yes |", "| no |", 1)
    assert changed != text
    assert page(changed) == text


def test_only_the_table_below_its_heading_is_replaced():
    text = "# A\n\n| a |\n| - |\n| 1 |\n\n## B\n\n| b |\n\n| a |\n| 2 |\n\nend\n"
    assert with_table(text, "## B", "| a ", "| a |\n| 3 |") == text.replace("| 2 |", "| 3 |")
    with pytest.raises(ValueError, match="substring"):
        with_table(text, "## C", "| a ", "")


def test_rows():
    assert rows_of(("x", "n:"), [["a", 1]]) == "| x | n |\n| --- | ---: |\n| a | 1 |"
