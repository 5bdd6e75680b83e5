"""The table of planted defects: each row can be planted, and the script reports killed and survived ones."""

import mutants
import paths
import pytest


@pytest.mark.parametrize("mutant", mutants.mutants(), ids=lambda mutant: mutant.title)
def test_defect_can_be_planted(mutant):
    source = (paths.ROOT / mutant.file).read_text()
    compile(mutant.planted(source), mutant.file, "exec")
    assert mutant.planted(source) != source
    assert all((paths.ROOT / test).exists() for test in mutant.tests.split())


def test_table_is_large_enough():
    assert len(mutants.mutants()) >= 60


def test_snippet_must_stand_once():
    mutant = mutants.Mutant("f.py", "x = 1", "x = 2", "tests")
    assert mutant.planted("x = 1\n") == "x = 2\n"
    for source in ("y = 1\n", "x = 1\nx = 1\n"):
        with pytest.raises(ValueError, match="not once"):
            mutant.planted(source)


def test_failing_and_passing_tests_are_distinguished(tmp_path):
    (tmp_path / "test_bad.py").write_text("def test_x():\n    assert False\n")
    (tmp_path / "test_good.py").write_text("def test_x():\n    pass\n")
    assert mutants.fails("test_bad.py", tmp_path)
    assert not mutants.fails("test_good.py", tmp_path)
    with pytest.raises(RuntimeError, match="ended with"):
        mutants.fails("test_missing.py", tmp_path)
