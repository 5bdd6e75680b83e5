"""The verdict on a run: paired standard errors, outcomes and the sentence."""

import json
import math

import numpy as np
import pytest

from tril_gym.experiment.verdict import (
    Change,
    describe_changes,
    duration,
    outcome_of,
    paired_change,
    standard_errors_of,
    verdict_of,
)


def test_paired_change_by_hand():
    # Differences 1, 0, 2, 1: mean 1, sample variance (0 + 1 + 1 + 0) / 3 = 2/3, standard error sqrt(2/3 / 4).
    change = paired_change([0.0, 5.0, 1.0, 2.0], [1.0, 5.0, 3.0, 3.0])
    assert (change.before, change.after) == (2.0, 3.0)
    assert change.stderr == pytest.approx(math.sqrt(1 / 6))
    assert change.standard_errors == pytest.approx(math.sqrt(6))


def test_pairing_cancels_the_difficulty_of_examples():
    generator = np.random.default_rng(0)
    difficulty = generator.normal(size=100)
    before, after = difficulty.tolist(), (difficulty + 0.1 + 0.1 * generator.normal(size=100)).tolist()
    assert paired_change(before, after).standard_errors > 5
    assert paired_change(before, generator.permutation(after).tolist()).standard_errors < 2  # other pairs


@pytest.mark.parametrize(
    ("before", "after", "standard_errors"),
    [([1.0, 2.0], [1.0, 2.0], 0.0), ([1.0, 2.0], [2.0, 3.0], math.inf), ([1.0, 2.0], [0.0, 1.0], -math.inf)],
)
def test_equal_differences_have_no_standard_error(before, after, standard_errors):
    assert paired_change(before, after).standard_errors == standard_errors


def test_one_example_says_nothing():
    assert math.isnan(paired_change([0.0], [1.0]).standard_errors)
    assert outcome_of([math.nan, math.nan]) == "no gain"


@pytest.mark.parametrize(
    ("greedy", "sampled", "outcome"),
    [
        (2.0, 2.0, "gain"),
        (math.inf, 9.0, "gain"),
        (1.9, 1.9, "no gain"),
        (-2.0, 0.0, "no gain"),
        (-2.1, 0.0, "worse"),
        (5.0, -2.1, "worse"),
        (5.0, 1.9, "mixed"),
        (-2.0, 2.0, "mixed"),
    ],
)
def test_outcomes(greedy, sampled, outcome):
    assert outcome_of([greedy, sampled]) == outcome
    assert outcome_of([sampled, greedy]) == outcome


def evaluation(greedy, sampled, **metrics):
    return {"rewards": {"greedy": greedy, "sampled": sampled}, "metrics": {"greedy": {}, "sampled": metrics}}


UP, FLAT = [1.0, 1.0, 2.0, 1.0], [0.0, 1.0, 0.0, 0.0]  # minus FLAT: 1, 0, 2, 1, of 2.4 standard errors


@pytest.mark.parametrize(
    ("after", "sentence"),
    [
        (
            evaluation(UP, UP, kl=3.94),
            "held-out greedy 0.25 → 1.25 (+2.4 standard errors), sampled 0.25 → 1.25 (+2.4), KL 3.9 nats a text,"
            " in 2 min 10 s",
        ),
        (
            evaluation(FLAT, FLAT),
            "no gain: held-out greedy 0.25 → 0.25 (+0.0 standard errors), sampled 0.25 → 0.25 (+0.0), in 2 min 10 s",
        ),
        (
            evaluation(UP, FLAT, kl=0.0),
            "mixed: held-out greedy 0.25 → 1.25 (+2.4 standard errors), sampled 0.25 → 0.25 (+0.0), KL 0.0 nats a text,"
            " in 2 min 10 s",
        ),
    ],
)
def test_sentences(after, sentence):
    unscored = verdict_of(evaluation(FLAT, FLAT), after, seconds=130.2, is_scored=False)
    assert (unscored["outcome"], unscored["sentence"].partition(",")[0]) == ("no reward", "no reward was named")
    assert verdict_of(evaluation(FLAT, FLAT), after, seconds=130.2)["sentence"] == sentence


def test_a_fall_is_worse():
    found = verdict_of(evaluation(UP, FLAT), evaluation(FLAT, FLAT), seconds=1)
    assert found["outcome"] == "worse"
    assert found["sentence"].startswith("worse: held-out greedy 1.25 → 0.25 (-2.4 standard errors)")
    assert found["greedy"]["standard_errors"] == pytest.approx(-math.sqrt(6))


def test_numbers_are_json_and_small_rewards_keep_their_digits():
    found = verdict_of(evaluation([0.0, 0.0], [0.0]), evaluation([0.0123, 0.0123], [0.05]), seconds=1)
    assert found["greedy"]["standard_errors"] is None
    assert found["sampled"]["stderr"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "greedy 0 → 0.012 (+0.012 in every text), sampled 0 → 0.05 (no standard error)" in found["sentence"]


@pytest.mark.parametrize("after", [UP, FLAT, [0.5, 1.5, 0.5, 0.5], [-1.0, 0.0, -1.0, -1.0], [math.nan, 0.0, 0.0, 0.0]])
def test_standard_errors_are_read_from_a_file(after):
    """Which has null for numbers that are not finite."""
    numbers = json.loads(json.dumps(verdict_of(evaluation(FLAT, FLAT), evaluation(after, FLAT))))["greedy"]
    expected = paired_change(FLAT, after).standard_errors
    assert standard_errors_of(numbers) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_change_that_all_texts_share_is_written_itself(sign):
    """Also one whose differences are not quite equal, by rounding; the unit stands at the first number that has it."""
    low, high = [0.1, 0.2, 0.3], [0.2, 0.3, 0.4]
    before, after = evaluation(low, [0.0, 1.0, 0.0]), evaluation(high, [1.0, 1.0, 2.0])
    found = verdict_of(*(before, after)[::sign])
    assert math.isfinite(found["greedy"]["standard_errors"])  # about 1e16
    ends = ("0.20 → 0.30 (+0.10", "+1.7") if sign == 1 else ("0.30 → 0.20 (-0.10", "-1.7")
    assert f"greedy {ends[0]} in every text), sampled" in found["sentence"]
    assert found["sentence"].endswith(f"({ends[1]} standard errors)")


def test_fewer_examples_are_compared_with_the_first_of_those_before():
    # Differences 1 and 3: mean 2, standard error 1.
    before, after = evaluation([0.0, 1.0, 9.0], [0.0, 1.0, 9.0]), evaluation([1.0, 4.0], [1.0, 4.0])
    assert verdict_of(before, after)["greedy"] == {"before": 0.5, "after": 2.5, "stderr": 1.0, "standard_errors": 2.0}


def test_different_examples_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        paired_change([0.0, 1.0], [0.0])


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (130, "2 min 10 s"), (3900, "1 h 5 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_differences_of_rounding_are_none():
    before = [0.1 + 0.2, 0.7, 0.3]
    after = [0.3, 0.7, 0.3]
    assert before != after
    assert paired_change(before, after).standard_errors == 0


@pytest.mark.parametrize(
    ("change", "shown"), [(1.96, "+1.9"), (-1.96, "-1.9"), (2.0, "+2.0"), (1.94, "+1.9"), (0.0, "+0.0")]
)
def test_a_change_is_not_written_as_two_standard_errors_before_it_is(change, shown):
    changes = {"greedy": Change(0.0, 1.0, 1.0, change)}
    assert describe_changes(changes) == f"greedy 0.00 → 1.00 ({shown} standard errors)"


@pytest.mark.parametrize("kl", [math.nan, math.inf])
def test_a_kl_that_is_not_finite_is_none(kl):
    part = {"rewards": {"greedy": [0.0, 1.0], "sampled": [0.0, 1.0]}, "metrics": {"greedy": {}, "sampled": {"kl": kl}}}
    found = verdict_of(part, part, seconds=1)
    assert found["kl"] is None
    assert found["sentence"].endswith("KL not finite, in 1 s")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
