"""BLEU, chrF and TER equal those of sacrebleu, for texts and corpora."""

import math

import numpy as np
import pytest
import sacrebleu
from sacrebleu.metrics import BLEU, CHRF, TER

from tril_gym import rewards

TEXTS = ["the cat sat on the mat .", "a dog", "", "Two birds, one stone!", "the the the"]
TARGETS = [
    ["the cat is on the mat .", "there is a cat on the mat ."],
    ["a dog runs"],
    ["something"],
    ["two birds , one stone !", "killing two birds with one stone", "birds"],
    ["the cat"],
]


def columns(texts, targets):
    return [""] * len(texts), list(texts), [list(of_one) for of_one in targets], [{}] * len(texts)


def score(name, text, targets, **settings):
    return float(rewards.load(name, **settings)(*columns([text], [targets]))[0])


def streams(targets):
    """Return the references as sacrebleu's streams of a corpus: None where a text has fewer."""
    most = max(map(len, targets))
    return [[of_one[i] if i < len(of_one) else None for of_one in targets] for i in range(most)]


def test_bleu_by_hand():
    # "a b c d e" for "a b c d f": n-grams right 4/5, 3/4, 2/3, 1/2; same length, no brevity penalty
    product = (4 / 5) * (3 / 4) * (2 / 3) * (1 / 2)
    assert score("bleu", "a b c d e", ["a b c d f"]) == pytest.approx(100 * product**0.25)
    # Two words have pairs at most: with effective order 2 · exp(1 − 3/2), where 3 words were wanted.
    assert score("bleu", "a b", ["a b c"]) == pytest.approx(100 * math.exp(-0.5))
    assert score("bleu", "a b", ["a b c"], effective_order=False, smooth="none") == 0.0
    # "exp": of no pair right, half of one is counted: P = 1/2, then (1/2) / 1.
    assert score("bleu", "a b", ["a c"], max_ngram_order=2) == pytest.approx(100 * (1 / 2 * 1 / 2) ** 0.5)


def test_ter_by_hand():
    # One word put in, one changed: 2 edits for 4 words.
    assert score("ter", "a b x", ["a b c d"]) == pytest.approx(50.0)
    assert score("ter", "c d a b", ["a b c d"]) == pytest.approx(25.0)  # a phrase that moves is one edit
    assert score("ter", "a b c d", ["a b c d"]) == 0.0


def test_chrf_by_hand():
    # characters in common a, b: P = R = 2/3; pairs ab: 1/2; triples none: mean P = R = (2/3 + 1/2 + 0) / 3
    assert score("chrf", "abc", ["abd"], char_order=3) == pytest.approx(100 * (2 / 3 + 1 / 2) / 3)
    assert score("chrf", "a b", ["ab"]) == 100.0  # white space is no character


METRICS = {
    "bleu": BLEU(effective_order=True, force=True),
    "chrf": CHRF(),
    "ter": TER(),
}
CORPUS = {"sacre_bleu": BLEU(force=True), "corpus_chrf": CHRF(), "corpus_ter": TER()}


@pytest.mark.parametrize("name", METRICS)
def test_text_scores_equal_those_of_sacrebleu(name):
    found = rewards.load(name)(*columns(TEXTS, TARGETS))
    for value, text, targets in zip(found, TEXTS, TARGETS, strict=True):
        if text:
            assert value == pytest.approx(METRICS[name].sentence_score(text, targets).score, abs=1e-12)


@pytest.mark.parametrize("name", CORPUS)
def test_corpus_scores_equal_those_of_sacrebleu(name):
    metric = rewards.load(name)
    expected = CORPUS[name].corpus_score(TEXTS, streams(TARGETS)).score
    assert metric.corpus(*columns(TEXTS, TARGETS)) == pytest.approx(expected, abs=1e-12)
    # and it is no mean over texts
    alone = [metric.corpus(*columns([text], [of_one])) for text, of_one in zip(TEXTS, TARGETS, strict=True)]
    assert abs(np.mean(alone) - expected) > 1


@pytest.mark.parametrize("name", CORPUS)
def test_corpus_scores_come_from_sums(name):
    metric = rewards.load(name)
    statistics = metric.statistics(*columns(TEXTS, TARGETS))
    for rows in ([0, 1], [3, 3, 0], [0, 1, 2, 3, 4]):
        part = columns([TEXTS[row] for row in rows], [TARGETS[row] for row in rows])
        assert metric.from_sums(statistics[rows].sum(0)) == pytest.approx(metric.corpus(*part), abs=1e-12)


def test_texts_without_references_do_not_count():
    for name, metric in ((name, rewards.load(name)) for name in CORPUS):
        more = columns([*TEXTS, "left out"], [*TARGETS, []])
        assert metric.corpus(*more) == metric.corpus(*columns(TEXTS, TARGETS)), name
    assert [score(name, "a dog", []) for name in METRICS] == [0.0, 0.0, 100.0]
    assert [score(name, " ", ["a dog"]) for name in METRICS] == [0.0, 0.0, 100.0]
    assert [rewards.load(name).corpus([], [], [], []) for name in CORPUS] == [0.0, 0.0, 100.0]
    assert [rewards.load(name).corpus([""], ["x"], [[]], [{}]) for name in CORPUS] == [0.0, 0.0, 100.0]


def test_ter_of_two_long_texts_has_no_shifts():
    # c d a b for a b c d: one phrase moved, 1 edit of 4 words; word by word c d go, and come again: 4 edits
    assert score("ter", "c d a b", ["a b c d"], most_words=4) == pytest.approx(25.0)
    assert score("ter", "c d a b", ["a b c d"], most_words=3) == pytest.approx(100.0)
    # The better reference counts, one quick and one slow: 1 edit for the short one, of 3 words on average.
    assert score("ter", "b a x", ["a b x", "z z z z"], most_words=3) == pytest.approx(100 / 3.5)
    # Against a short reference the search is quick, however long the text is: one phrase moved and 200 words too many
    # are 201 edits of 4 words. Word by word c d go, two x become c d and the other 198 go: 202.
    long_text = "c d a b" + " x" * 200
    assert score("ter", long_text, ["a b c d"], most_words=8) == pytest.approx(100 * 201 / 4)
    assert score("ter", long_text, ["a b c d"], most_words=7) == pytest.approx(100 * 202 / 4)


def test_ter_reads_long_texts_completely():
    """The score of a longer text is worse by the number of further words."""
    target = "the dog chases the ball in the park"  # 8 words
    for count in (100, 500, 1000):
        assert score("ter", target + " x" * count, [target]) == pytest.approx(100 * count / 8)
    metric, text = TER(), "x y " * 200 + "chases the ball the dog"
    assert score("ter", text, [target]) == pytest.approx(metric.sentence_score(text, [target]).score, abs=1e-12)


def test_missing_references_differ_from_empty_ones():
    """In sacrebleu's streams an empty string is an empty reference, None is no reference."""
    filled = [[text or "" for text in stream] for stream in streams(TARGETS)]
    expected, other = (TER().corpus_score(TEXTS, kind).score for kind in (streams(TARGETS), filled))
    assert abs(expected - other) > 1
    assert rewards.load("corpus_ter").corpus(*columns(TEXTS, TARGETS)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("text", ["", "a b"])
def test_empty_references_score_as_by_sacrebleu(name, text):
    expected = CORPUS[name].corpus_score([text, ""], [["", ""]]).score
    assert rewards.load(name).corpus(*columns([text, ""], [[""], [""]])) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", CORPUS)
def test_statistics_have_a_fixed_width(name):
    metric = rewards.load(name)
    batches = ([], []), (["a"], [[]]), (["a b"], [["a"]]), ([""], [["a", "b"]])
    shapes = [metric.statistics(*columns(*batch)).shape for batch in batches]
    assert len({width for _, width in shapes}) == 1
    assert [count for count, _ in shapes] == [0, 1, 1, 1]


def test_bleu_without_effective_order_is_quiet(caplog):
    metric = BLEU(effective_order=False, force=True)
    found = score("bleu", "a b", ["a b c"], effective_order=False)
    assert caplog.records == []
    assert found == pytest.approx(metric.sentence_score("a b", ["a b c"]).score, abs=1e-12)
    assert score("bleu", "a b", ["a b c"]) > found + 1


def test_missing_tokenizer_is_reported(monkeypatch):
    def lacks(*args, **kwargs):
        raise RuntimeError("\nPlease install\n  them.\n")

    monkeypatch.setattr("sacrebleu.metrics.bleu._get_tokenizer", lambda name: lacks)
    with pytest.raises(ImportError, match=r"tokenize='ja-mecab' needs a missing package.*: Please install them\.$"):
        rewards.load("bleu", tokenize="ja-mecab")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("bleu", {"smooth": "x"}, r"smooth must be one of none, floor, add-k, exp, got 'x'"),
        ("bleu", {"tokenize": "x"}, r"tokenize must be one of .*13a.*got 'x'"),
        ("bleu", {"max_ngram_order": 0}, r"max_ngram_order must be a whole number of at least 1, got 0"),
        ("bleu", {"smooth": "floor", "smooth_value": -1.0}, r"smooth_value must be .*at least 0.*got -1.0 for 'floor'"),
        ("bleu", {"smooth": "floor", "smooth_value": math.nan}, r"smooth_value must be .*got nan"),
        ("bleu", {"smooth_value": 1.0}, r"smooth_value must be .*got 1.0 for 'exp'; leave it out"),
        ("chrf", {"char_order": 0}, r"char_order must be a whole number of at least 1, got 0"),
        ("chrf", {"word_order": -1}, r"word_order must be a whole number of at least 0, got -1"),
        ("chrf", {"beta": 0.5}, r"beta must be a whole number of at least 1, got 0.5"),
        ("ter", {"most_words": 0}, r"most_words must be a whole number of at least 1, got 0"),
        ("sacre_bleu", {"effective_order": True}, r"no setting 'effective_order'"),
    ],
)
def test_invalid_settings_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        rewards.load(name, **settings)


def test_corpus_metrics_are_no_rewards():
    with pytest.raises(ValueError, match=r"sacre_bleu is a corpus metric.*--metrics sacre_bleu"):
        rewards.as_score("sacre_bleu")


def test_statistics_of_the_installed_sacrebleu():
    assert len(BLEU(force=True)._extract_corpus_statistics(["a"], [["a"]])[0]) == 2 + 2 * 4, sacrebleu.__version__
