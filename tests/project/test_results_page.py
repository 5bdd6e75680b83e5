"""The tables of docs/results_small.md are those of the runs that are kept."""

import json
import statistics

import guide_question
import pytest
from learning import hash_of_curves
from PIL import Image
from results_page import FIGURES, PAGE, PREFIXES, RESULTS, drawn_runs, page, read, rows_of, with_table


def test_the_page_is_as_the_script_writes_it():
    assert PAGE.read_text() == page(PAGE.read_text()), "run scripts/results_page.py"


@pytest.mark.parametrize("kind", PREFIXES)
def test_the_figures_show_these_runs(kind):
    runs = drawn_runs(kind)
    for env in {run["env"] for run in runs}:
        path = PAGE.parent / f"{PREFIXES[kind]}_{FIGURES[env.split('/')[1].split('-')[0].lower()]}.png"
        with Image.open(path) as figure:
            shown = hash_of_curves([run for run in runs if run["env"] == env])
            assert figure.info["Source"] == shown, "run scripts/results_page.py --figures"


def test_the_demo_gains_more_than_imitation_for_the_same_time():
    """With five seeds that nothing was chosen by; it is better than imitation of the guide's data in the mean."""
    runs = [run for run in read("learning") if run["algorithm"] == "ppo-pp" and run["seed"] in range(50, 55)]
    assert [(run["env"], run["policy"]) for run in runs] == [("tril/IMDB-v0", "tiny")] * 5
    for run in runs:
        greedy, sampled = run["verdict"]["greedy"], run["verdict"]["sampled"]
        assert min(change["after"] - change["before"] for change in (greedy, sampled)) >= 0.08
        assert min(change["standard_errors"] for change in (greedy, sampled)) >= 3
    for way in ("greedy", "sampled"):
        ends = {name: [run[name][way]["after"] for run in runs] for name in ("verdict", "control")}
        assert sum(ends["verdict"]) > sum(ends["control"]), way


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


class TestTheGuideQuestionOfTheDocs:
    @pytest.mark.parametrize("folder", ["guides", "guides_share_0.7"])
    def test_the_page_has_what_the_runs_say(self, folder):
        text = (PAGE.parent / "guides.md").read_text()
        runs = read(folder)
        assert guide_question.table(runs) in text
        assert guide_question.before(runs) in text


def test_the_rewards_with_a_useless_guide_are_those_of_the_runs():
    text = (PAGE.parent / "guides.md").read_text()
    runs = json.loads((RESULTS / "toy_guides_32.json").read_text())["useless"]
    for name, row in (("ppo", "| PPO | 12 |"), ("d2lols", "| D2LOLS, hand-over after 3 | 24 |")):
        rewards = [run[name] for run in runs]
        least, median, most = (f"{value(rewards):.3f}" for value in (min, statistics.median, max))
        assert f"{row} {median} | {least} to {most} |" in text


def test_the_gain_on_published_tldr_is_that_of_the_runs():
    gains = [
        100 * (run["after"][way]["reward/mean"] / run["before"][way]["reward/mean"] - 1)
        for run in read("published")
        if run["env"] == "tril/TLDR-v0" and run["algorithm"] in ("ppo", "ppo-pp")
        for way in ("greedy", "sampled")
    ]
    assert f"by {min(gains):.0f} to {max(gains):.0f} %" in PAGE.read_text()
