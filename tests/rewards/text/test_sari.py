"""SARI by hand, and the scores of the authors' own example."""

import pytest

from tril_gym import rewards
from tril_gym.rewards.text.sari import sari

SOURCE = "About 95 species are currently accepted ."
REFERENCES = [
    "About 95 species are currently known .",
    "About 95 species are now accepted .",
    "95 species are now accepted .",
]


def score(prompt, text, references, **settings):
    return float(rewards.load("sari", **settings)([prompt], [text], [references], [{"plain": "a b"}])[0])


def test_by_hand():
    # source "a b", output "a c", reference "a d"; only n = 1 and n = 2 have n-grams.
    # n = 1: kept a, wanted a: F1 = 1.  added c, wanted d: 0.  deleted b, wanted b: precision 1.
    # n = 2: source ab, output ac, reference ad: nothing kept, none wanted: 0. added ac, wanted ad: 0. deleted ab: 1.
    # n = 3, 4: nothing: 0. Sum (1 + 0 + 1 + 0 + 0 + 1) / (3 · 4)
    assert sari("a b", "a c", ["a d"]) == pytest.approx(3 / 12)
    # Two references, one of which keeps b: of its two copies in the references' count one is to be kept.
    # n = 1, output "a": kept a (2 of 2), wanted a 2, b 1: precision 1, recall (2/2 + 0/1) / 2 = 1/2, F1 = 2/3
    #        added nothing, wanted d: 0. deleted b (2), right 2 − 1 = 1: precision 1/2
    # n = 2: source ab, references ab, ad: kept nothing, wanted ab: 0; added nothing: 0; deleted ab (2), right 1: 1/2
    assert sari("a b", "a", ["a b", "a d"]) == pytest.approx((2 / 3 + 1 / 2 + 1 / 2) / 12)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("About 95 you now get in .", 0.2682782411698074),
        ("About 95 species are now agreed .", 0.5889995423074248),
        ("About 95 species are currently agreed .", 0.5071608864657479),
    ],
)
def test_the_authors_example(output, expected):
    assert sari(SOURCE, output, REFERENCES) == pytest.approx(expected, abs=1e-12)
    assert score(SOURCE, output, REFERENCES) == pytest.approx(100 * expected, abs=1e-10)


def test_text_equal_to_its_reference_scores_best():
    assert score(SOURCE, REFERENCES[1], REFERENCES[1:2]) > score(SOURCE, SOURCE, REFERENCES[1:2])
    assert score(SOURCE, REFERENCES[1], REFERENCES[1:2]) > 60


def test_source_in_the_extras():
    assert score("unread", "a c", ["a d"], source="plain") == pytest.approx(100 * 3 / 12)
    with pytest.raises(ValueError, match=r"source='full'.*no such key but \['plain'\]"):
        score("x", "y", ["z"], source="full")
    with pytest.raises(ValueError, match="an empty one"):
        rewards.load("sari", source="")


def test_equal_texts_and_missing_references():
    assert score(SOURCE, "x", []) == 0.0
    assert score("", "", [""]) == 0.0
    assert score("a", "", ["a"]) == 0.0  # deleted a word of the reference
