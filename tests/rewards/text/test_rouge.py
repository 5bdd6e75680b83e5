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


def test_several_references():
    references = ["the cat sat", "a dog", "the cat"]  # F1 of "the cat": 2·1·(2/3)/(5/3) = 0.8, 0, 1
    assert rouge("the cat", references) == 1.0
    assert rouge("the cat", references, reduction="mean") == pytest.approx(0.6)


def test_empty_texts_score_zero():
    assert rouge("the cat", []) == rouge("the cat", [], reduction="mean") == 0.0
    assert rouge("", ["the cat"]) == rouge("the cat", [""]) == rouge("", [""]) == 0.0


def test_caching_words_changes_no_score():
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


def of_kind(name, completion, references, **settings):
    return float(rewards.load(name, **settings)(["p"], [completion], [references], [{}])[0])


def test_variants_by_hand():
    # completion: the cat sat (3 words, 2 pairs); reference: the cat lay flat (4 words, 3 pairs)
    #   words in common the, cat: P = 2/3, R = 2/4, F1 = 2 · (1/3) / (7/6) = 4/7
    #   pairs in common the cat: P = 1/2, R = 1/3, F1 = 2 · (1/6) / (5/6) = 2/5
    #   longest common subsequence the cat: as for words
    text, reference = "the cat sat", ["the cat lay flat"]
    assert of_kind("rouge_1", text, reference) == pytest.approx(4 / 7)
    assert of_kind("rouge_2", text, reference) == pytest.approx(2 / 5)
    assert of_kind("rouge_combined", text, reference) == pytest.approx((4 / 7 + 2 / 5 + 4 / 7) / 3)
    # Each line is a sentence: against both together, the order of the sentences does not count.
    swapped = "a dog ran\nthe cat sat", ["the cat sat\na dog ran"]
    assert of_kind("rouge_lsum", *swapped) == 1.0
    assert of_kind("rouge_l", *swapped) == pytest.approx(0.5)


def test_combined_is_the_best_of_the_means():
    references = ["cat the", "the dog runs to the cat"]
    alone = [of_kind("rouge_combined", "the cat", [reference]) for reference in references]
    assert of_kind("rouge_combined", "the cat", references) == max(alone)
    assert of_kind("rouge_combined", "the cat", references, reduction="mean") == pytest.approx(sum(alone) / 2)
