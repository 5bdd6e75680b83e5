"""docs/algorithms.md is what the code says."""

from algorithm_pages import FORMULAS, METRICS, PAGE, page

from tril_gym.experiment.algorithms import ALGORITHMS


def test_the_page_of_all_algorithms_is_current():
    assert FORMULAS.keys() == METRICS.keys() == ALGORITHMS.keys()
    assert PAGE.read_text() == page(), "run scripts/algorithm_pages.py"
