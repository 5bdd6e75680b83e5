"""Objects in specifications: deep copies share them, plain data stay plain."""

import copy
import pickle
from pathlib import Path

import pytest

from tril_gym.utils.no_copy import MAX_PLAIN_ITEMS, NoCopy, unwrap_no_copy, wrap_no_copy

LONG = list(range(MAX_PLAIN_ITEMS))


@pytest.mark.parametrize("x", [None, True, 3, 0.5, "rouge_l", ["a", 1], ("a", None), {"cider_d": 0.1, "to": ["b"]}])
def test_small_plain_data_stay_as_they_are(x):
    assert wrap_no_copy(x) == x
    assert type(wrap_no_copy(x)) is type(x)


def test_a_path_becomes_a_string():
    assert wrap_no_copy(Path("data") / "imdb") == str(Path("data") / "imdb")
    assert wrap_no_copy({"dataset": Path("imdb")}) == {"dataset": "imdb"}


@pytest.mark.parametrize("x", [object(), len, {1, 2}, [object()], {"reward": len}, LONG, [[0] * len(LONG)], NoCopy])
def test_other_objects_are_shared_by_deep_copies(x):
    copied = copy.deepcopy({"dataset": wrap_no_copy(x)})["dataset"]
    assert unwrap_no_copy(copied) is x
    assert copied == wrap_no_copy(x)


def test_a_deep_copy_without_the_wrapper_copies():
    x = [object()]
    assert copy.deepcopy(x)[0] is not x[0]


def test_equality_is_identity_of_the_objects():
    one, same_content = [object()], [object()]
    same_content[0] = one[0]
    assert wrap_no_copy(one) == wrap_no_copy(one)
    assert hash(wrap_no_copy(one)) == hash(wrap_no_copy(one))
    assert wrap_no_copy(one) != wrap_no_copy(same_content)
    assert wrap_no_copy(one) != one


def test_wrapping_is_idempotent():
    wrapped = wrap_no_copy(len)
    assert wrap_no_copy(wrapped) is wrapped
    assert unwrap_no_copy(wrapped) is len
    assert unwrap_no_copy("plain") == "plain"


def test_a_wrapped_object_can_be_pickled():
    assert unwrap_no_copy(pickle.loads(pickle.dumps(wrap_no_copy(list(range(1000)))))) == list(range(1000))


def test_the_representation_is_short():
    assert repr(wrap_no_copy(list(range(100_000)))) == "NoCopy(<list>)"
