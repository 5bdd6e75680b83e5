"""Diversity metrics of a corpus."""

import math

import pytest
from sacrebleu.metrics import BLEU

from tril_gym import rewards


def measure(name, *texts, **settings):
    count = len(texts)
    return rewards.load(name, **settings).corpus([""] * count, list(texts), [[]] * count, [{}] * count)


def test_distinct_by_hand():
    # the cat sat / The cat ran: 6 words, 4 different; pairs the cat, cat sat, the cat, cat ran: 3 of 4; triples 2 of 2
    texts = "the cat sat", "The cat ran"
    assert measure("distinct_1", *texts) == pytest.approx(4 / 6)
    assert measure("distinct_2", *texts) == pytest.approx(3 / 4)
    assert measure("distinct_3", *texts) == 1.0
    assert measure("distinct_2", "a", "b") == 0.0  # no pair spans two texts
    assert measure("vocabulary_size", *texts) == 4


def test_entropy_by_hand():
    # a a b c: shares 1/2, 1/4, 1/4 have 1/2 · 1 + 2 · 1/4 · 2 = 1.5 bits
    assert measure("entropy_1", "a a", "b c") == pytest.approx(1.5)
    assert measure("entropy_2", "a a", "b c") == pytest.approx(1.0)  # two pairs, one each
    assert measure("entropy_1", "a a a") == 0.0
    assert measure("entropy_1", " ".join(f"w{i}" for i in range(8))) == pytest.approx(3.0)


def test_msttr_by_hand():
    # segments of 3 across the texts: a b a | b c c | (d is left over): 2/3 and 2/3
    assert measure("msttr", "a b", "a b c", "c d", segment=3) == pytest.approx(2 / 3)
    assert measure("msttr", "a b", "a", segment=100) == pytest.approx(2 / 3)  # fewer words than a segment
    assert measure("msttr", " ".join(["w"] * 100 + [f"w{i}" for i in range(100)])) == pytest.approx((0.01 + 1) / 2)


def test_self_bleu_by_sacrebleu():
    texts = ["a dog runs in the park", "a dog runs in the yard", "two birds sing"]
    metric = BLEU(effective_order=True, force=True)
    alone = [metric.sentence_score(text, texts[:row] + texts[row + 1 :]).score for row, text in enumerate(texts)]
    assert measure("self_bleu", *texts) == pytest.approx(sum(alone) / 3, abs=1e-12)
    assert measure("self_bleu", "a dog runs in the park", "a dog runs in the park") == pytest.approx(100.0)
    # Of four texts two are read, the first and the third.
    assert measure("self_bleu", "a b c d", "x y", "a b c d", "z", sample=2) == pytest.approx(100.0)


def test_self_bleu_reads_a_limited_number_of_texts():
    # of five texts four are read, 0, 1, 2 and 3 (i · 5 // 4); of the others, two are alike in all
    texts = ["a b c d", "e f g h", "a b c d", "i j k l", "e f g h"]
    assert measure("self_bleu", *texts, sample=4) == pytest.approx(measure("self_bleu", *texts[:4]))
    assert measure("self_bleu", *texts, sample=4) != pytest.approx(measure("self_bleu", *texts), abs=1)
    assert measure("self_bleu", *texts, sample=5) == measure("self_bleu", *texts, sample=200)


def test_self_bleu_of_empty_texts_is_zero():
    # 100 for each of the two that are alike, 0 for the empty one
    assert measure("self_bleu", "a b c d", "a b c d", "") == pytest.approx(200 / 3)


def test_empty_corpus_has_no_diversity():
    names = ["distinct_1", "distinct_3", "entropy_1", "entropy_2", "msttr", "self_bleu", "vocabulary_size"]
    for name in names:
        assert measure(name) == measure(name, "") == measure(name, " \n") == 0.0, name


def test_only_some_metrics_depend_on_the_order_of_texts():
    texts = ["a dog runs .", "two dogs", "the cat sat , and sat", "a"]
    for name in ("distinct_1", "distinct_2", "entropy_1", "entropy_2", "vocabulary_size"):
        assert measure(name, *texts) == measure(name, *reversed(texts))
    assert measure("self_bleu", *texts) == pytest.approx(measure("self_bleu", *reversed(texts)), abs=1e-9)


def test_repeated_corpus_is_less_diverse():
    """The reason why there are no bootstrap intervals: a resample repeats texts."""
    texts = ["a dog runs", "two cats sleep", "birds sing loudly"]
    for name in ("distinct_1", "distinct_2"):
        assert measure(name, *texts, *texts) == measure(name, *texts) / 2
    assert measure("vocabulary_size", *texts, *texts) == measure("vocabulary_size", *texts)
    assert math.isclose(measure("entropy_1", *texts, *texts), measure("entropy_1", *texts))
    assert not isinstance(rewards.load("distinct_1"), rewards.PooledScore)
    assert isinstance(rewards.load("sacre_bleu"), rewards.PooledScore)


def test_invalid_settings_are_refused():
    for segment in (0, 1.5, math.nan, True):
        with pytest.raises(ValueError, match=rf"segment must be a whole number of at least 1, got {segment}"):
            rewards.load("msttr", segment=segment)
    with pytest.raises(ValueError, match="sample must be a whole number of at least 2, got 1"):
        rewards.load("self_bleu", sample=1)
