import gzip
import math

import numpy as np
import pytest
from reward_examples import Example

from tril_gym import rewards
from tril_gym.rewards.text.cider import split_words


def cider(train, completion, references):
    return float(rewards.load("cider_d", train=train)(["p"], [completion], [references], [{}])[0])


def slow_cider_d(train, completion, references, sigma=6.0):
    """Return CIDEr-D by the definition of the paper, one n-gram at a time."""
    documents = [example.references for example in train if example.references]

    def grams(text, n):
        words = split_words(text)
        return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]

    def weight(gram, text, n):
        df = sum(any(gram in grams(sentence, n) for sentence in document) for document in documents)
        return grams(text, n).count(gram) * math.log(len(documents) / max(1, df))

    total = 0.0
    for n in (1, 2, 3, 4):
        for reference in references:
            both = sorted({*grams(completion, n), *grams(reference, n)})
            own = np.array([weight(gram, completion, n) for gram in both])
            other = np.array([weight(gram, reference, n) for gram in both])
            size = np.linalg.norm(own) * np.linalg.norm(other)
            delta = len(split_words(completion)) - len(split_words(reference))
            if size > 0:
                total += (np.minimum(own, other) @ other) / size * math.exp(-(delta**2) / (2 * sigma**2))
    return 10 * total / 4 / len(references) if references else 0.0


TWO = [Example(references=("a b",)), Example(references=("a c",))]


def test_by_hand():
    # N = 2: df(a) = 2 so idf(a) = 0; b, c, "a b", "a c" have df 1, idf = log 2 =: L.
    # The reference itself: n = 1: (0, L)·(0, L)/L² = 1; n = 2: 1; n = 3, 4: no n-grams, 0. So 10 · (1 + 1)/4 = 5.
    assert cider(TWO, "a b", ["a b"]) == pytest.approx(5.0)
    # "b" alone: n = 1: 1; n = 2: none. One word shorter: exp(−1/72). 10 · exp(−1/72)/4.
    assert cider(TWO, "b", ["a b"]) == pytest.approx(2.5 * math.exp(-1 / 72))
    # "a" has weight 0: it is in every document.
    assert cider(TWO, "a", ["a b"]) == 0.0


def test_repetition_is_clipped():
    # "b b b" against "a b": min(3L, L) · L / (3L · L) = 1/3, and one word longer: 10/4 · 1/3 · exp(−1/72).
    assert cider(TWO, "b b b", ["a b"]) == pytest.approx(2.5 / 3 * math.exp(-1 / 72))


def test_an_ngram_unseen_in_train_has_document_frequency_one():
    # x and y are new: idf = log 2 each, as b's: two equal weights in n = 1, one bigram.
    assert cider(TWO, "x y", ["x y"]) == pytest.approx(5.0)
    # half of the words: n = 1: L²/(√2 L · √2 L) = 1/2; n = 2: 0.
    assert cider(TWO, "x z", ["x y"]) == pytest.approx(2.5 / 2)


def test_several_references_are_averaged_and_are_one_document():
    assert cider(TWO, "a b", ["a b", "q r"]) == pytest.approx(2.5)
    # "b" twice within one document still has df 1: the same score as above
    train = [Example(references=("a b", "b")), Example(references=("a c",))]
    assert cider(train, "b", ["a b"]) == pytest.approx(2.5 * math.exp(-1 / 72))
    # the same two texts as two documents weigh differently: N = 3, df(b) = 2
    apart = [Example(references=("a b",)), Example(references=("b",)), Example(references=("a c",))]
    assert cider(apart, "b x", ["a b x"]) != pytest.approx(cider(train, "b x", ["a b x"]))


def test_equals_the_slow_definition(captions):
    texts = [
        "a dog chases the ball",
        "The dog, the dog, the dog!",
        "a cat and a girl",
        "on the mat",
        "",
        "wholly new words",
        "a dog runs after a ball a dog runs after a ball a dog runs",
    ]
    score = rewards.load("cider_d", train=captions)
    for example in captions:
        references = list(example.references)
        got = score([""] * len(texts), texts, [references] * len(texts), [{}] * len(texts))
        assert got == pytest.approx([slow_cider_d(captions, text, references) for text in texts], abs=1e-12)
    assert got.max() > 0.1


def test_document_frequencies_are_not_of_the_batch(captions):
    # The published code counts document frequencies in the scored batch: one sample alone then scores 0.
    assert cider(captions, "a dog runs after a ball", ["a dog runs after a ball"]) == pytest.approx(10.0)


def test_words():
    assert split_words("The dog's ball-game, 3 (three) cost $5 \N{DOG FACE}!") == [
        *("the", "dog", "s", "ball", "game", "3", "three", "cost", "$", "5", "\N{DOG FACE}")
    ]
    assert split_words(" \n\t") == []


def test_missing_references_score_zero(captions):
    assert cider(captions, "a dog", []) == 0.0
    assert cider(captions, "a dog", [""]) == 0.0
    assert cider(captions, "", ["a dog"]) == 0.0


def test_saved_and_loaded_score_is_the_same(captions, tmp_path):
    score = rewards.load("cider_d", train=captions)
    score.save(tmp_path / "reward")
    loaded = rewards.load("cider_d", fitted=tmp_path / "reward")
    texts = ["a dog chases the ball", "the mat", "\N{DOG FACE} 5$"]
    batch = ([""] * 3, texts, [["the dog chases a ball", "\N{DOG FACE} $"]] * 3, [{}] * 3)
    assert loaded(*batch).tolist() == score(*batch).tolist()
    other = rewards.load("cider_d", train=captions[:2])
    assert other(*batch).tolist() != score(*batch).tolist()  # the control: the frequencies matter
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / "cider_d.json.gz").read_bytes() == (
        tmp_path / "reward" / "cider_d.json.gz"
    ).read_bytes()


def test_missing_train_examples_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cider_d counts document frequencies.*pass train="):
        rewards.load("cider_d")
    with pytest.raises(ValueError, match=r"no saved cider_d in"):
        rewards.load("cider_d", fitted=tmp_path)


def test_too_few_train_examples_are_refused():
    for train in ([], [Example(references=("a",))], [Example(), Example(references=("a",))]):
        with pytest.raises(ValueError, match="at least 2 train examples with references"):
            cider(train, "a", ["a"])


def test_train_examples_are_loaded_on_first_use(captions):
    asked = []

    def examples():
        asked.append(1)
        return captions

    score = rewards.load("cider_d", train=examples)
    assert not asked
    score([""], ["a dog"], [["a dog"]], [{}])
    score([""], ["a cat"], [["a dog"]], [{}])
    assert len(asked) == 1


def test_equal_train_examples_share_their_counts(captions):
    first = rewards.load("cider_d", train=captions)
    copied = [Example(example.prompt, example.references) for example in captions]
    assert rewards.load("cider_d", train=lambda: copied).frequencies is first.frequencies
    assert rewards.load("cider_d", train=captions[1:]).frequencies is not first.frequencies


# `mtime`: test ids contain the bytes, and parallel workers must collect the same ids.
@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"{}", mtime=0), gzip.compress(b"{", mtime=0)])
def test_damaged_document_frequencies_are_named(content, tmp_path):
    (tmp_path / "cider_d.json.gz").write_bytes(content)
    score = rewards.load("cider_d", fitted=tmp_path)
    with pytest.raises(ValueError, match=r"cider_d\.json\.gz is damaged: .*; copy it again, or fit it again"):
        score(["p"], ["a b"], [["a b"]], [{}])
