"""Sequences of examples: packed ones equal objects, and parts share them."""

import datetime
import pickle

import numpy as np
import pytest

from tril_gym.data import Example, Examples, examples
from tril_gym.data.examples import PackedExamples
from tril_gym.envs.prompts import prompt_table
from tril_gym.envs.toy import toy_tokenizer

FULL = Example(
    "a é 🐕:", ("b", "c"), 1, {"n": [1, {"x": None}], "day": datetime.date(2026, 1, 2)}, ":", ({"role": "u"},)
)
MANY = [Example(f"prompt {i}", (f"reference {i}",) * (i % 3), extras={"i": i}) for i in range(50)]


@pytest.fixture(params=[True, False], ids=["packed", "plain"])
def is_packed(request, monkeypatch) -> bool:
    monkeypatch.setattr(examples, "PLAIN", 10 if request.param else 1000)
    return request.param


def test_both_forms_are_the_same_sequence(is_packed):
    found = Examples(iter([FULL, *MANY]), source="here")
    assert isinstance(found._examples, PackedExamples) == is_packed
    assert len(found) == 51
    assert list(found) == [FULL, *MANY]
    assert found[-1] == MANY[-1]
    assert found[1:4] == tuple(MANY[:3])
    assert list(found.prompts()) == [example.prompt for example in found]
    assert (found[3] is found[3]) != is_packed
    for index in (51, -52):
        with pytest.raises(IndexError):
            found[index]


def test_parts_do_not_copy(is_packed):
    found = Examples(iter(MANY), source="here")
    even = found.select([i % 2 == 0 for i in range(50)], source="even", held_out=True)
    assert (even.source, even.held_out, len(even)) == ("even", True, 25)
    assert list(even) == MANY[::2]
    assert list(even.prompts()) == [example.prompt for example in MANY[::2]]
    fourth = even.select([i % 2 == 0 for i in range(25)], source="fourth")
    assert (list(fourth), fourth[2], fourth[-1:]) == (MANY[::4], MANY[8], (MANY[48],))
    assert not list(found.select([False] * 50, source="none"))


def test_packed_examples_take_little_memory():
    assert len(pickle.dumps(PackedExamples(MANY))) < 50 * 100


def test_arrays_are_kept():
    (found,) = PackedExamples([Example("a", extras={"array": np.arange(3)})])
    assert found.extras["array"].tolist() == [0, 1, 2]


def test_texts_and_numbers_of_numpy_are_kept():
    example = Example("a", (np.str_("b"),), label=np.int64(1))
    (found,) = PackedExamples([example])
    assert (found.references, found.label) == (("b",), 1)


def test_pickled_examples_leave_tokenised_prompts_behind():
    """These are found by the id of a tokenizer, which another process gives to another object."""
    found = Examples([FULL], source="here", held_out=True)
    prompt_table(found, toy_tokenizer(16), max_prompt_length=4, truncation_side="left", vocab_size=16)
    again = pickle.loads(pickle.dumps(found))
    assert (list(again), again.source, again.held_out, again.prompt_tables) == ([FULL], "here", True, {})
    assert len(found.prompt_tables) == 1
