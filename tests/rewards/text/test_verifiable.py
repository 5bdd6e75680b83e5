"""Rewards that compare a completion with a right answer, by hand."""

from decimal import Decimal

import numpy as np
import pytest

from tril_gym import rewards
from tril_gym.rewards.text.verifiable import numbers_in


def score(name, text, answer=None, references=(), extras=None, **settings):
    """Return the score of one completion; an answer is the extra of this name."""
    if answer is not None:
        settings, extras = settings | {"against": "answer"}, {"answer": answer} | (extras or {})
    return float(rewards.load(name, **settings)(["p"], [text], [list(references)], [extras or {}])[0])


class TestExactMatch:
    @pytest.mark.parametrize(
        ("text", "answer", "settings", "right"),
        [
            (" Paris\n", "Paris", {}, 1),
            ("paris", "Paris", {}, 0),
            ("paris", "Paris", {"ignore_case": True}, 1),
            ("Paris.", "Paris", {}, 0),
            ("Paris.", "Paris", {"ignore_punctuation": True}, 1),
            ("New  York", "New York", {}, 0),
            ("New  York ", "New York", {"whitespace": "collapse"}, 1),
            ("Paris ", "Paris", {"whitespace": "keep"}, 0),
            ("no: Lyon. Answer: Paris", "Paris", {"after": "Answer:"}, 1),
            ("Answer: Paris. Answer: Lyon", "Paris", {"after": "Answer:"}, 0),  # the last one counts
            ("Paris", "Paris", {"after": "Answer:"}, 0),
            ("4", 4, {}, 1),
            ("4", 4.0, {}, 1),
            ("4", np.int64(4), {}, 1),
            ("0.5", 0.5, {}, 1),
            ("Lyon", ["Paris", "Lyon"], {}, 1),
            ("Nice", ["Paris", "Lyon"], {}, 0),
            ("", "Paris", {}, 0),
        ],
    )
    def test_by_hand(self, text, answer, settings, right):
        assert score("exact_match", text, answer, **settings) == right

    def test_references_are_the_default(self):
        assert score("exact_match", " b", references=("a", "b")) == 1
        assert score("exact_match", " c", references=("a", "b")) == 0


class TestNumberMatch:
    @pytest.mark.parametrize(
        ("text", "numbers"),
        [
            ("1,200 and 3.50 and .5", ["1200", "3.5", "0.5"]),
            ("5-3 = 2, -3, (-4), − 5, −6", ["5", "3", "2", "-3", "-4", "5", "-6"]),
            ("1,2,3 and 1,2345", ["1", "2", "3", "1", "2345"]),
            ("$5, £1,200.75, 50%, 10 km, 3kg.", ["5", "1200.75", "50", "10", "3"]),
            ("1e3 and 2.5E-1", ["1000", "0.25"]),
            ("v1.2 x2 a_3 1.2.3", ["1.2"]),
            ("wait...5. No.6", ["5", "6"]),
            ("1/2 and 10:30", ["1", "2", "10", "30"]),
            ("1e999999999 nan inf", []),
            ("", []),
        ],
    )
    def test_numbers_of_a_text(self, text, numbers):
        assert numbers_in(text) == [Decimal(number) for number in numbers]

    @pytest.mark.parametrize(
        ("text", "answer", "settings", "right"),
        [
            ("so 3 * 4 = 12", 12, {}, 1),
            ("12 it is, not 13", 12, {}, 0),
            ("12 it is, not 13", 12, {"which": "first"}, 1),
            ("12", 12, {"which": "only"}, 1),
            ("12 or 13", 12, {"which": "only"}, 0),
            ("1,200.0", "1200", {}, 1),
            ("3.14", 3.14159, {}, 0),
            ("3.14", 3.14159, {"tolerance": 0.01}, 1),
            ("3.15", 3.14, {"tolerance": 0.01}, 1),  # exactly: floats would say 0.00999… or 0.01000…2
            ("3.16", 3.14, {"tolerance": 0.01}, 0),
            ("3.15", 3.14, {"tolerance": np.float64(0.01)}, 1),
            ("5 + 5 = 10\n#### 10", "work: 5 + 5\n#### 10", {"after": "####"}, 1),
            ("5 + 5 = 10", "work: 5 + 5\n#### 10", {"after": "####"}, 0),
            ("#### ten", "#### 10", {"after": "####"}, 0),
            ("seven", 7, {}, 0),
            ("7", [5, 7], {}, 1),
            ("100000000000000000000000", 1e23, {}, 1),
            ("1e23", 1e23, {}, 1),
            ("99999999999999991611392", 1e23, {}, 0),  # int(1e23)
        ],
    )
    def test_by_hand(self, text, answer, settings, right):
        assert score("number_match", text, answer, **settings) == right

    def test_answers_without_a_number_are_refused(self):
        with pytest.raises(ValueError, match="number_match needs a number to compare with, got 'ten' as answer"):
            score("number_match", "10", "ten")

    @pytest.mark.parametrize("answer", ["1/2", "10:30", "2^10", "1 000", r"\frac{3}{4}", "x=5, y=3"])
    def test_answers_of_several_numbers_are_refused(self, answer):
        """The last of them is not their value."""
        with pytest.raises(ValueError, match=r"number_match needs one number .* write its value, such as 0\.5 for 1/2"):
            score("number_match", "2", answer)
        assert score("number_match", "so it is 7", f"{answer} are numbers, but 7 is it") == 1


class TestRegex:
    @pytest.mark.parametrize(
        ("text", "settings", "right"),
        [
            ("call 555", {"pattern": r"\d{3}"}, 1),
            ("call 55", {"pattern": r"\d{3}"}, 0),
            ("call 555", {"pattern": r"\d{3}", "full": True}, 0),
            (" 555\n", {"pattern": r"\d{3}", "full": True}, 1),
            ("CALL", {"pattern": "call"}, 0),
            ("CALL", {"pattern": "call", "ignore_case": True}, 1),
            ("a 7 b", {"pattern": 7}, 1),  # as the command line reads it
            ("a 1 Answer: b", {"pattern": r"\d", "after": "Answer:"}, 0),
        ],
    )
    def test_a_pattern(self, text, settings, right):
        assert score("regex", text, **settings) == right

    def test_a_pattern_of_each_text(self):
        assert score("regex", "a cat", "[ck]at") == 1
        assert score("regex", "a hat", "[ck]at") == 0
        assert score("regex", "a hat", references=["[ck]at", "h.t"], against="references") == 1

    @pytest.mark.parametrize(
        ("text", "settings", "right"),
        [
            ("the answer is Paris.", {}, 1),
            ("the answer is Lyon, no, the answer is Paris", {}, 1),
            ("the answer is Lyon, no, the answer is Paris", {"which": "first"}, 0),
            ("the answer is Lyon, no, the answer is Paris", {"which": "only"}, 0),
            ("the answer is paris", {}, 0),
            ("the answer is paris", {"ignore_case": True}, 1),
            ("Paris", {}, 0),
        ],
    )
    def test_what_a_group_finds_is_compared(self, text, settings, right):
        assert score("regex", text, "Paris", pattern=r"answer is (\w+)", **settings) == right

    def test_wrong_patterns_are_refused(self):
        with pytest.raises(ValueError, match="regex needs pattern="):
            rewards.load("regex")
        for alone in ({"pattern": "a"}, {"against": "answer"}):
            with pytest.raises(ValueError, match=r"which='only' .* needs both pattern= and against="):
                rewards.load("regex", which="only", **alone)
        with pytest.raises(ValueError, match=r"pattern must be a regular expression, got '\('"):
            rewards.load("regex", pattern="(")
        with pytest.raises(ValueError, match=r"pattern must be a regular expression, got 3\.5"):
            rewards.load("regex", pattern=3.5)
        with pytest.raises(ValueError, match=r"must have one group .* compared with answer, got 'a' with 0"):
            rewards.load("regex", pattern="a", against="answer")
        with pytest.raises(ValueError, match=r"pattern must be a regular expression, got '\['"):
            score("regex", "a", "[")


class TestChoice:
    @pytest.mark.parametrize(
        ("text", "answer", "settings", "right"),
        [
            ("(B)", "B", {}, 1),
            ("The answer is B.", "B", {}, 1),
            ("A is wrong, so B", "B", {}, 1),
            ("B, as A is wrong", "B", {}, 0),
            ("B, as A is wrong", "B", {"which": "first"}, 1),
            ("B, as A is wrong", "B", {"which": "only"}, 0),
            ("B) yes, B", "B", {"which": "only"}, 1),
            ("Because", "B", {}, 0),
            ("b", "B", {}, 0),
            ("b", "B", {"ignore_case": True}, 1),
            ("C", 2, {}, 1),
            ("C", np.int64(2), {}, 1),
            ("2", 2, {}, 0),
            ("A. Answer: C", "C", {"after": "Answer:"}, 1),
            ("C", "C", {"after": "Answer:"}, 0),
            ("Yes, it is", "yes", {"choices": "yes,no", "ignore_case": True}, 1),
            ("C++ of course", "C++", {"choices": ["C", "C++"]}, 1),
            ("F", "A", {}, 0),
            ("", "A", {}, 0),
        ],
    )
    def test_by_hand(self, text, answer, settings, right):
        assert score("choice", text, answer, **settings) == right

    @pytest.mark.parametrize("index", [1, 1.0, "1", " 1", np.float64(1), np.int64(1)])
    def test_an_index_may_be_a_cell_of_a_table(self, index):
        assert score("choice", "B", index) == 1
        assert score("choice", "2", "2", choices="1,2,3") == 1  # a choice that is a number is named

    def test_choices_of_each_text(self):
        extras = {"animals": ["horse", "sea horse", "crow"]}
        assert score("choice", "a sea horse", 1, extras=extras, options="animals") == 1
        assert score("choice", "a sea horse", "horse", extras=extras, options="animals") == 0

    def test_wrong_choices_are_refused(self):
        for choices in ("A", ["A", "A"], ["A", ""], ["A", 3], 5):
            with pytest.raises(ValueError, match="choices must be two or more different texts"):
                rewards.load("choice", choices=choices)
        with pytest.raises(ValueError, match=r"one of the choices A, B, C, D, E as answer, .* got 'F'"):
            score("choice", "A", "F")
        with pytest.raises(ValueError, match="got 5"):
            score("choice", "A", 5)
        with pytest.raises(ValueError, match=r"choice needs extras\['option'\] \(did you mean 'options'\?\).*answer"):
            score("choice", "A", "A", extras={"options": ["A", "B"]}, options="option")


@pytest.mark.parametrize("name", ["exact_match", "number_match", "choice"])
class TestAnswers:
    def test_missing_ones_are_refused(self, name):
        with pytest.raises(ValueError, match=rf"{name} compares with references, and a text has none; .* answer:"):
            score(name, "a", extras={"answer": "A", "finish_reason": "stop"})
        with pytest.raises(ValueError, match=rf"{name} needs extras\['anwser'\] \(did you mean 'answer'\?\)"):
            score(name, "a", extras={"answer": "A"}, against="anwser")
        for empty in (None, "", [], [""], {"a": 1}):
            with pytest.raises(ValueError, match=rf"{name} compares with extras\['answer'\], one or more answers, got"):
                score(name, "a", extras={"answer": empty}, against="answer")

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"against": 3}, "against must be"),
            ({"against": ""}, "against must be"),
            ({"after": ""}, "after must be a text"),
            ({"after": 3}, "after must be a text"),
            ({"before": "x"}, "has no setting 'before'"),
        ],
    )
    def test_wrong_settings_are_refused(self, name, settings, message):
        with pytest.raises(ValueError, match=message):
            rewards.load(name, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("exact_match", {"whitespace": "trim"}, "whitespace must be one of strip, collapse, keep, got 'trim'"),
        (
            "exact_match",
            {"ignore_case": "yes"},
            "ignore_case of the reward exact_match must be True or False",
        ),
        ("number_match", {"which": "all"}, "which must be one of last, first, only, got 'all'"),
        ("number_match", {"tolerance": -1}, "tolerance must be a number of at least 0, got -1"),
        ("number_match", {"tolerance": "1"}, "tolerance must be a number of at least 0, got '1'"),
    ],
)
def test_settings_out_of_bounds_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        rewards.load(name, **settings)
