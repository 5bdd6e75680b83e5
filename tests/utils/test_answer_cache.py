"""Answers by request on disk."""

import pytest

from tril_gym.utils.answer_cache import AnswerCache

REQUEST = {"prompt": "a", "seed": 1}


def test_answers_outlive_the_process(tmp_path):
    AnswerCache(tmp_path / "new").put(REQUEST, {"text": "ä"})
    cache = AnswerCache(tmp_path / "new")
    assert cache.get(dict(reversed(REQUEST.items()))) == {"text": "ä"}
    assert cache.get(REQUEST | {"seed": 2}) is None


def test_damaged_answers_are_missing(tmp_path):
    cache = AnswerCache(tmp_path)
    cache.put(REQUEST, {"text": "b"})
    (file,) = tmp_path.rglob("*.json")
    file.write_text(file.read_text()[:-10])
    assert cache.get(REQUEST) is None
    cache.put(REQUEST, {"text": "b"})
    assert cache.get(REQUEST) == {"text": "b"}
    assert list(tmp_path.rglob(".*")) == []


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="must be a folder"):
        AnswerCache(tmp_path / "file")
