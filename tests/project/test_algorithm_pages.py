"""docs/algorithms.md is what the code says."""

from algorithm_pages import FORMULAS, PAGE, page

from tril_gym.experiment.algorithms import ALGORITHMS


def test_the_page_of_all_algorithms_is_current():
    assert FORMULAS.keys() == ALGORITHMS.keys()
    assert PAGE.read_text() == page(), "run scripts/algorithm_pages.py"
