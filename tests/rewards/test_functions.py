"""Rewards that are plain functions: how they are called, and which results are taken as one number per text."""

import logging

import gymnasium as gym
import numpy as np
import pytest
import torch

import tril_gym  # noqa: F401  registers the environments
from tril_gym import rewards
from tril_gym.rewards.base import as_numbers
from tril_gym.rewards.functions import FunctionScore, _say_once

TEXTS = (["p1", "p2", "p3"], ["a", "b c", "d e f"], [["r"], [], ["s", "t"]], [{"k": 1}, {"k": 2}, {"k": 3}])
WORDS = [1.0, 2.0, 3.0]


def count(completions):
    return [len(text.split()) for text in completions]


class Counter:
    """A callable object."""

    def __call__(self, texts):
        return count(texts)


def with_options(completions, *, scale=1.0, **others):
    assert set(others) == {"prompts", "references", "extras"}
    return [scale * number for number in count(completions)]


@pytest.mark.parametrize(
    "function",
    [
        lambda prompts, completions, references, extras: count(completions),
        lambda p, c, r, e: count(c),
        lambda *inputs: count(inputs[1]),
        lambda **inputs: count(inputs["completions"]),
        lambda completions: count(completions),
        lambda completions, prompts: count(completions),
        lambda extras, completions, references, prompts: count(completions),
        lambda texts: count(texts),
        lambda texts, scale=1: [scale * number for number in count(texts)],
        with_options,
        Counter(),
    ],
)
def test_functions_are_called_by_their_parameters(function):
    assert FunctionScore(function)(*TEXTS).tolist() == WORDS


def test_functions_get_only_what_they_name():
    assert FunctionScore(lambda extras: [extra["k"] for extra in extras])(*TEXTS).tolist() == WORDS
    assert FunctionScore(lambda prompts, references: [*map(len, references)])(*TEXTS).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: [0.0],
        lambda: [0.0],
        lambda a, b, c, d, e: [0.0],
        lambda completions, weights: [0.0],
        lambda *, texts: [0.0],
    ],
)
def test_other_parameters_are_refused_before_the_first_text(function):
    with pytest.raises(ValueError, match=r"reward 'lambda' has the parameters .*; a reward takes prompts, completions"):
        rewards.as_score(function)


@pytest.mark.parametrize(
    "function",
    [
        lambda completion: len(completion.split()),
        lambda prompt, completion: len(completion.split()),
        lambda completion, extras: extras["k"],
    ],
)
@pytest.mark.parametrize("wrap", [rewards.as_score, rewards.per_text])
def test_parameters_of_one_text_make_a_function_of_one_text(function, wrap):
    assert wrap(function)(*TEXTS).tolist() == WORDS


@pytest.mark.parametrize("number", [float, np.float32, torch.tensor])
@pytest.mark.parametrize("rows", [slice(0, 3), slice(1, 2)])
def test_one_number_for_several_texts_means_a_function_of_one(number, rows, caplog):
    """Also for a batch of one, where a function of a batch could give the same."""
    _say_once.cache_clear()
    texts = [column[rows] for column in TEXTS]

    def letters(text):
        return number(len(str(text)))

    score = rewards.as_score(letters)
    with caplog.at_level(logging.WARNING):
        assert score(*texts).tolist() == [1.0, 3.0, 5.0][rows]
        rewards.as_score(letters)(*texts)
    assert caplog.text.count("'letters' gives one number for several texts") == 1
    assert "rewards.per_text(function)" in caplog.text


@pytest.mark.parametrize("rows", [slice(0, 3), slice(1, 2)])
@pytest.mark.parametrize(
    "function",
    [
        lambda completions: float(len(completions)),
        lambda prompts, completions: 1.0,
        lambda prompts, completions, references, extras: np.mean(count(completions)),
    ],
)
def test_one_number_for_all_completions_is_refused(function, rows):
    with pytest.raises(ValueError, match=r"'lambda' gives one number for all texts, and must give one for each"):
        rewards.as_score(function)(*[column[rows] for column in TEXTS])
    with pytest.raises(ValueError, match="a reward of one text takes prompt, completion"):
        rewards.per_text(function)


def test_a_function_of_a_batch_may_squeeze_a_batch_of_one(caplog):
    def squeezed(completions):
        return torch.tensor(count(completions)).squeeze()

    assert rewards.as_score(squeezed)(*[column[1:2] for column in TEXTS]).tolist() == [2.0]
    assert caplog.text == ""


def test_a_function_that_fails_on_a_list_hears_of_per_text():
    with pytest.raises(AttributeError, match=r"'list' object has no attribute 'split'.*rewards\.per_text"):
        rewards.as_score(lambda x: float(len(x.split())))(*TEXTS)


@pytest.mark.parametrize(
    "values",
    [
        WORDS,
        tuple(WORDS),
        np.array(WORDS, np.float16),
        np.array([[1.0], [2.0], [3.0]]),
        [[1.0], [2.0], [3.0]],
        torch.tensor(WORDS, dtype=torch.bfloat16),
        torch.tensor(WORDS, requires_grad=True) * 1,
        torch.tensor(WORDS)[:, None],
        torch.tensor([1, 2, 3]),
        [torch.tensor(number, dtype=torch.bfloat16, requires_grad=True) for number in WORDS],
        [torch.tensor([number]) for number in WORDS],
        [np.float64(1), 2, True + 2],
        (number for number in WORDS),
        map(float, WORDS),
    ],
    ids=lambda values: type(values).__name__ if iter(values) is values else str(values),
)
def test_results_with_a_plain_meaning_are_taken(values):
    found = as_numbers(values, 3)
    assert found.dtype == np.float64
    assert found.tolist() == WORDS


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (None, r"got None \(no `return`\?\) for 3 texts"),
        ("123", "got one str for 3 texts"),
        (["1", "2", "3"], "got a list of str for 3 texts"),
        ([1.0, None, 2.0], "got a list of NoneType and float"),
        ({"a": 1.0}, "got one dict"),
        ([], r"got float64 of shape \(0,\) for 3 texts"),
        (WORDS[:2], r"got float64 of shape \(2,\) for 3 texts"),
        (1.0, "got one float for 3 texts"),
        ([[1.0, 2.0, 3.0]], r"got float64 of shape \(1, 3\)"),
        ([[1.0], [2.0, 3.0], []], "a ragged list"),
        (np.array(WORDS, complex), "got one ndarray"),
        (torch.ones(3, 2), r"got float64 of shape \(3, 2\)"),
    ],
    ids=str,
)
def test_other_results_have_one_message(values, words):
    with pytest.raises(ValueError, match=f"^one number per text is needed, .*{words}"):
        as_numbers(values, 3)
    if not isinstance(values, float):
        with pytest.raises(ValueError, match=r"^reward 'lambda': one number per text is needed, got"):
            FunctionScore(lambda completions: values)(*TEXTS)


class Tensors(rewards.Score):
    """A score of the user that returns tensors as its model gives them."""

    name = "tensors"

    def __call__(self, prompts, completions, references, extras):
        return torch.full((len(prompts), 1), 0.5, dtype=torch.bfloat16, requires_grad=True) * 1


def test_environments_take_tensors_of_a_score():
    envs = gym.make_vec("tril/CommonGen-v0", num_envs=2, reward=Tensors())
    envs.reset(seed=0)
    eos = envs.metadata["text"]["eos_token_ids"][0]
    assert envs.step(np.full(2, eos))[1].tolist() == [0.5, 0.5]


def test_a_function_of_a_file_keeps_its_declarations(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from tril_gym import rewards\n\n\n@rewards.on_main_process\ndef one(completion):\n    return 1.0\n\n\n"
        "def plain(completion):\n    return 1.0\n"
    )
    declared, plain = rewards.load(f"{file}:one", retries=0), rewards.load(f"{file}:plain")
    assert declared.main_process
    assert not plain.main_process
    assert declared.name == plain.name.replace("plain", "one")
    assert declared(["?"] * 2, ["a", "b"], [[]] * 2, [{}] * 2).tolist() == [1.0, 1.0]
