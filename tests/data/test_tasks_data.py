"""The conversion of rows into examples."""

import pytest

from tril_gym.data import Example
from tril_gym.envs.common_gen import COMMON_GEN
from tril_gym.envs.hh import HH
from tril_gym.envs.imdb import IMDB
from tril_gym.envs.tldr import TLDR


def test_imdb_review_is_cut_in_half():
    """The reference is only the second half; from the whole review a policy would learn to repeat its prompt."""
    example = IMDB.read({"text": " one  two\nthree <br /> five. ", "label": 0})
    assert example == Example("one  two\nthree", references=("<br /> five.",), label=0)
    assert IMDB.read({"text": "one two", "label": "1"}) == Example("one", references=("two",), label=1)
    assert IMDB.read({"text": "one two three", "label": 1}).prompt == "one two"


def test_common_gen_prompt():
    example = COMMON_GEN.read({"concepts": ["dog", "run", "park"], "references": ["A dog runs."]})
    assert example.prompt == "concepts: dog run park. sentence:"
    assert example.extras == {"concepts": ["dog", "run", "park"]}
    assert example.prompt.endswith(example.suffix)


def test_common_gen_joins_concept_sets():
    rows = [(["dog", "run"], ["A", "B"]), (["cat"], ["C"]), (["run", "dog"], ["B", "D"])]
    examples = COMMON_GEN.gather(COMMON_GEN.read({"concepts": c, "references": r}) for c, r in rows)
    assert [(e.extras["concepts"], e.references) for e in examples] == [
        (["dog", "run"], ("A", "B", "D")),
        (["cat"], ("C",)),
    ]


def test_tldr_prompt():
    row = {"post": "I fell. ", "subreddit": "r/tifu", "title": "A fall", "summary": " fell "}
    example = TLDR.read(row)
    assert example.prompt == "SUBREDDIT: r/tifu\n\nTITLE: A fall\n\nPOST: I fell.\n\nTL;DR:"
    assert (example.suffix, example.references) == ("\n\nTL;DR:", ("fell",))
    assert TLDR.read(row | {"subreddit": "tifu"}) == example


def test_default_lengths():
    assert [(t.max_prompt_length, t.max_new_tokens) for t in (IMDB, COMMON_GEN, TLDR, HH)] == [
        (64, 48),
        (20, 20),
        (500, 50),
        (256, 128),
    ]


def test_invalid_examples_are_refused():
    with pytest.raises(ValueError, match="put it in a list"):
        Example("a", references="b")
    with pytest.raises(ValueError, match="end of the prompt"):
        Example("a", suffix="b")
    assert Example("a", references=["b"]).references == ("b",)
