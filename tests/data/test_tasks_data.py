"""The conversion of rows into examples."""

from typing import ClassVar

import gymnasium as gym
import pytest

import tril_gym  # noqa: F401 - registers the environments
from tril_gym.data import Example
from tril_gym.data.task import with_template
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


class TestPromptTemplate:
    """Prompts of another format, such as that of the published models for CommonGen."""

    TEMPLATE = "generate a sentence with: {concepts}."
    ROW: ClassVar = {"concepts": ["dog", "run"], "references": ["A dog runs."]}

    def test_a_task_with_another_template(self):
        example = with_template(COMMON_GEN, self.TEMPLATE).read(self.ROW)
        assert (example.prompt, example.suffix) == ("generate a sentence with: dog run.", ".")
        assert (example.references, example.extras) == (("A dog runs.",), {"concepts": ["dog", "run"]})
        post = {"post": "I fell.", "subreddit": "tifu", "title": "A fall", "summary": "fell"}
        assert with_template(TLDR, "{title}: {post}\nTL;DR:").read(post).prompt == "A fall: I fell.\nTL;DR:"

    def test_the_default_is_the_same_task(self):
        assert with_template(COMMON_GEN, None) is with_template(COMMON_GEN, COMMON_GEN.prompt_template) is COMMON_GEN
        assert with_template(COMMON_GEN, self.TEMPLATE) is with_template(COMMON_GEN, self.TEMPLATE)

    @pytest.mark.parametrize("template", ["", "a sentence", "{title}", "{concepts} {references}", "{concepts", "{}", 5])
    def test_other_fields_are_refused(self, template):
        with pytest.raises(ValueError, match=r"prompt_template must be a format of \{concepts\} and nothing else"):
            with_template(COMMON_GEN, template)

    def test_a_task_without_a_template_is_refused(self):
        with pytest.raises(ValueError, match="prompt_template is for tasks that write their prompts themselves; imdb"):
            with_template(IMDB, "{text}")

    def test_an_environment_shows_the_prompts(self):
        env = gym.make(
            "tril/CommonGen-v0", dataset=[self.ROW], prompt_template=self.TEMPLATE, max_prompt_length=60, reward=None
        )
        observation, info = env.reset(seed=0)
        assert info["prompt"] == "generate a sentence with: dog run."
        assert env.unwrapped.tokenizer.decode(observation[observation >= 0]) == info["prompt"]

    def test_a_prompt_needs_room_beside_the_fixed_words(self):
        with pytest.raises(ValueError, match=r"max_prompt_length must be above the \d+ tokens that the fixed words"):
            gym.make("tril/CommonGen-v0", prompt_template=self.TEMPLATE, max_prompt_length=8, reward=None)


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
