"""Properties of texts in an evaluation: repetition, ends and unknown words."""

import gymnasium as gym
import pytest
import torch
from doubles import EOS, V

import tril_gym  # noqa: F401  (registers the environments)
from tril_gym.agents import TextLayout, Trajectories
from tril_gym.data import Example
from tril_gym.experiment.evaluation import columns_of_texts, intervals_of, means_of
from tril_gym.experiment.text_quality import has_unknown_word, repetition, training_words, words_of_examples

LAYOUT = TextLayout(max_prompt_length=1, max_new_tokens=3, vocab_size=V, eos_token_ids=(EOS,))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("a b c", 0.0),  # one trigram
        ("A b a B a b", 0.5),  # aba bab aba bab: 2 of 4 distinct
        ("go go go go go", 1 - 1 / 3),  # ggg three times
        ("a b c d", 0.0),  # two trigrams, both distinct
        ("so, so, so,", 0.5),  # a comma is a word: so,so ,so, so,so ,so,
    ],
)
def test_repetition_by_hand(text, share):
    assert repetition(text) == pytest.approx(share)


def test_known_words_are_those_of_prompts_and_references():
    known = words_of_examples([Example("A dog", references=("It runs.", "it sits")), Example("b")])
    assert known == {"a", "dog", "it", "runs", ".", "sits", "b"}
    assert not has_unknown_word("It sits. B", known)
    assert has_unknown_word("it sits!", known)
    assert not has_unknown_word("", known)


def test_training_words_are_those_of_the_train_split():
    train, held_out = (gym.make_vec("tril/CommonGen-v0", num_envs=2, split=split) for split in ("train", "validation"))
    known = training_words(train)
    assert known >= words_of_examples(train.unwrapped.examples[:5])
    assert known == training_words(held_out)  # whatever part of the data an environment has
    assert known != words_of_examples(held_out.unwrapped.examples)
    assert training_words(gym.make_vec("CartPole-v1", num_envs=2)) is None


def texts(tokens, completions):
    """Return texts of a foreign environment with reward 1 for each token."""
    tokens = torch.tensor(tokens)
    is_token, rows = tokens >= 0, len(tokens)
    return Trajectories(
        prompts=torch.zeros(rows, 1, dtype=torch.int64),
        is_prompt=torch.ones(rows, 1, dtype=torch.bool),
        tokens=tokens.clamp(min=0),
        is_token=is_token,
        is_rollin=torch.zeros_like(is_token),
        old_logprobs=torch.zeros(tokens.shape, dtype=torch.float64),
        rewards=is_token.double(),
        terminated=torch.ones(rows, dtype=torch.bool),
        truncated=torch.zeros(rows, dtype=torch.bool),
        switch=torch.zeros(rows, dtype=torch.int64),
        examples=torch.arange(rows),
        infos=[{} if text is None else {"completion": text} for text in completions],
        learn_on="rollout",
    )


def test_metrics_of_three_texts():
    written = texts([[3, EOS, -1], [3, 4, 5], [EOS, -1, -1]], ["a b a b a b", "a", ""])
    columns = columns_of_texts(written, LAYOUT, {"a"})
    means, intervals = means_of(columns), intervals_of(columns, seed=0)
    assert means == pytest.approx(
        {
            "examples": 3,
            "reward/mean": 2.0,  # 2, 3 and 1 tokens
            "reward/stderr": 1 / 3**0.5,
            "text/length": 2.0,
            "text/ended": 2 / 3,  # the second stopped at three tokens
            "text/repetition": 0.5 / 3,
            "text/unknown_words": 1 / 3,  # b
        }
    )
    assert set(intervals) == set(means) - {"examples", "reward/stderr"}
    assert all(low <= means[name] <= high for name, (low, high) in intervals.items())


def test_metrics_that_need_words_are_absent_without_them():
    written = texts([[3, EOS, -1], [3, 4, 5]], ["a", "b"])
    assert "text/unknown_words" not in columns_of_texts(written, LAYOUT, None)
    assert "text/repetition" in columns_of_texts(written, LAYOUT, None)
    without_text = texts([[3, EOS, -1], [3, 4, 5]], ["a", None])
    assert {name for name in columns_of_texts(without_text, LAYOUT, {"a"}) if name.startswith("text/")} == {
        "text/length",
        "text/ended",
    }
