"""Prompts and rewards of an environment in the form that TRL's trainers take."""

import json

import gymnasium as gym
import numpy as np
import pytest

from tril_gym.bridges import prompt_dataset, reward_functions, reward_weights
from tril_gym.data import Example

EXAMPLES = [
    Example("name a dog", references=["rex", "a rex"], extras={"level": np.int64(2)}),
    Example("name a cat", references=["tom"], label=1),
]


def envs(**keywords):
    return gym.make_vec("tril/CommonGen-v0", num_envs=2, dataset=EXAMPLES, tokenizer="fit:300", **keywords)


def test_the_data_set_has_every_example():
    rows = prompt_dataset(envs(reward=None))
    assert rows["prompt"][:] == ["name a dog", "name a cat"]
    assert rows["references"][:] == [["rex", "a rex"], ["tom"]]
    assert [json.loads(extras) for extras in rows["extras"]] == [{"level": 2}, {"label": 1}]


def test_functions_are_called_by_keyword_with_the_columns_of_the_data_set():
    made = envs(reward={"rouge_l": 0.5, "length_bonus": 2.0})
    rows = prompt_dataset(made)
    found = reward_functions(made)
    assert [function.__name__ for function in found] == ["rouge_l", "length_bonus"]
    assert reward_weights(made) == [0.5, 2.0]
    columns = {name: rows[name][:] for name in rows.column_names if name != "prompt"}
    scores = found[0](prompts=rows["prompt"][:], completions=["rex", "rex"], completion_ids=[[1], [1]], **columns)
    assert scores == [1.0, 0.0]


def test_of_a_conversation_the_last_message_counts():
    (function,) = reward_functions(envs(reward="rouge_l"))
    chat = [[{"role": "assistant", "content": "tom"}]]
    prompts = [[{"role": "user", "content": "name a cat"}]]
    assert function(prompts=prompts, completions=chat, references=[["tom"]]) == [1.0]


def test_an_environment_without_terms_or_examples_is_refused():
    with pytest.raises(ValueError, match="has no reward term"):
        reward_functions(envs(reward=None))
    with pytest.raises(ValueError, match="has no examples"):
        prompt_dataset(gym.make("CartPole-v1"))
