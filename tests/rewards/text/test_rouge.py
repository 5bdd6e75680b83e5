import logging

import pytest
from rouge_score.rouge_scorer import RougeScorer

from tril_gym import rewards
from tril_gym.rewards.text.rouge import _warn_once, unicode_words


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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Привет, мир!", ["привет", "мир"]),
        ("我爱 Python3。", ["我", "爱", "python3"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("Caf\u00e9 cafe\u0301_x", ["caf\u00e9", "caf\u00e9", "x"]),
        ("größer als", ["größer", "als"]),
        ("カタカナ", ["カ", "タ", "カ", "ナ"]),
        ("...", []),
    ],
)
def test_words_of_any_script(text, words):
    assert unicode_words(text) == words


@pytest.mark.parametrize("name", ["rouge_1", "rouge_2", "rouge_l", "rouge_lsum", "rouge_combined"])
@pytest.mark.parametrize("text", ["Кошка сидит на ковре", "猫坐在垫子上", "बिल्ली चटाई पर"])
def test_equal_texts_of_other_scripts_score_1(name, text):
    assert of_kind(name, text, [text]) == 0.0, "the letters a-z only"
    assert of_kind(name, text, [text], tokenizer="unicode") == 1.0


def test_other_scripts_by_hand():
    # 猫在垫上 and 猫坐在垫子上: 4 and 6 characters, all 4 in order: P = 1, R = 4/6, F1 = 0.8
    assert of_kind("rouge_l", "猫在垫上", ["猫坐在垫子上"], tokenizer="unicode") == pytest.approx(0.8)


@pytest.mark.parametrize("text", ["Dogs were running, don't they?", "a_b c-d 12th", "", "Generously walked-on stairs"])
def test_both_tokenizers_agree_on_ascii(text):
    for reference in ("the dogs don't run", "a b c 12th", "generous walks"):
        assert rouge(text, [reference], tokenizer="unicode") == rouge(text, [reference])


@pytest.mark.parametrize(
    ("reference", "warns"), [("猫坐在垫子上", True), ("Кошка и cat", True), ("Der größte Bär", False), ("ok", False)]
)
def test_references_that_are_not_read_are_named_once(reference, warns, caplog):
    _warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            rouge("x", [reference])
    assert len(caplog.records) == warns
    assert ("rouge_l.tokenizer=unicode" in caplog.text) == warns
    caplog.clear()
    rouge("x", [reference], tokenizer="unicode")
    assert caplog.records == []


def test_other_tokenizers_are_refused():
    with pytest.raises(ValueError, match="tokenizer must be one of ascii, unicode, got 'zh'"):
        rewards.load("rouge_l", tokenizer="zh")
