"""Suggestions: similar names are found, others are not; and every kind of name has them."""

import pytest

from tril_gym.utils.suggestions import closest, path_with_suggestion, with_suggestion

NAMES = ("ppo", "ppo-pp", "aggrevated", "rouge_l", "tril/IMDB-v0", "tril/CommonGen-v0", "learning_rate")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("PPO", "ppo"),
        ("ppo++", "ppo-pp"),
        ("agrevated", "aggrevated"),
        ("rouge-L", "rouge_l"),
        ("imdb", "tril/IMDB-v0"),
        ("CommonGen", "tril/CommonGen-v0"),
        ("learning-rat", "learning_rate"),
        ("rl", None),  # too short to be part of a name by intent
        ("tril", None),  # part of several
        ("xyzzy", None),
        ("", None),
    ],
)
def test_the_most_similar_name_is_found(name, expected):
    assert closest(name, NAMES) == expected


def test_words_of_a_suggestion():
    assert with_suggestion("ppo++", NAMES) == "'ppo++' (did you mean 'ppo-pp'?)"
    assert with_suggestion("ppo", NAMES) == "'ppo'"
    assert with_suggestion("xyzzy", NAMES) == "'xyzzy'"


def test_a_path_has_a_similar_one_in_its_folder(tmp_path):
    (tmp_path / "ppo-seed0").mkdir()
    found = path_with_suggestion(f"{tmp_path}/pop-seed0/")
    assert found == f"'{tmp_path}/pop-seed0/' (did you mean '{tmp_path}/ppo-seed0'?)"
    assert path_with_suggestion(f"{tmp_path}/other") == f"'{tmp_path}/other'"
    assert path_with_suggestion("/no/such/folder/x") == "'/no/such/folder/x'"
    assert path_with_suggestion("tiny-seq2sq", ("tiny", "tiny-seq2seq")).endswith("(did you mean 'tiny-seq2seq'?)")
