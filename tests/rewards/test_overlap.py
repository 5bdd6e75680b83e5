import pytest
from rouge_score.rouge_scorer import RougeScorer

from tril_gym import rewards


def rouge(completion, references, **settings):
    return float(rewards.load("rouge_l", **settings)(["p"], [completion], [references], [{}])[0])


def test_by_hand():
    # reference: the cat sat on the mat (6 words), completion: the cat on mat (4 words)
    #   longest common subsequence: the cat on mat = 4; P = 4/4, R = 4/6, F1 = 2 · 1 · (2/3) / (5/3) = 0.8
    assert rouge("the cat on mat", ["the cat sat on the mat"]) == pytest.approx(0.8)
    # order counts: "mat cat" has a common subsequence of 1 word; P = 1/2, R = 1/6, F1 = (2/12) / (4/6) = 0.25
    assert rouge("mat cat", ["the cat sat on the mat"]) == pytest.approx(0.25)


def test_words_are_stemmed():
    assert rouge("Dogs running!", ["dog runs"]) == 1.0
    assert rouge("dogs flying", ["dog runs"]) == 0.5


def test_over_several_references():
    references = ["the cat sat", "a dog", "the cat"]  # F1 of "the cat": 2·1·(2/3)/(5/3) = 0.8, 0, 1
    assert rouge("the cat", references) == 1.0
    assert rouge("the cat", references, over="mean") == pytest.approx(0.6)


def test_no_reference_and_no_words_give_zero():
    assert rouge("the cat", []) == rouge("the cat", [], over="mean") == 0.0
    assert rouge("", ["the cat"]) == rouge("the cat", [""]) == rouge("", [""]) == 0.0


def test_remembering_words_changes_no_score():
    plain = RougeScorer(["rougeL"], use_stemmer=True)
    texts = [
        "Generously walked-on stairs",
        "the generous stair walks",
        "üben 3 days",
        "",
        "walking generously on stairs",
    ]
    for completion in texts:
        for reference in texts:
            assert rouge(completion, [reference]) == plain.score(reference, completion)["rougeL"].fmeasure
