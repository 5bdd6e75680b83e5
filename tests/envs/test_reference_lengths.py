"""A data set whose references do not fit into T tokens is named, with the share and what to set."""

import logging

import gymnasium as gym
import pytest

import tril_gym  # noqa: F401  registers the environments
from tril_gym.data import Example, Examples
from tril_gym.data.tokenizers import FITTED_SIZE, fitted_size
from tril_gym.envs import lengths
from tril_gym.envs.toy import toy_tokenizer


def examples(*word_counts):
    return Examples([Example("w3", (" ".join(["w4"] * count),)) for count in word_counts], source="my data")


def messages(caplog, data, T, **keywords):  # noqa: N803
    lengths._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        settings = {"tokenizer": toy_tokenizer(16), "max_new_tokens": T, "max_prompt_length": 8, "reward": None}
        gym.make(keywords.pop("env", "tril/CommonGen-v0"), dataset=data, **settings | keywords)
    return [record.getMessage() for record in caplog.records]


def test_the_share_and_the_length_that_fits_are_named(caplog):
    # 10 references of 1 … 10 words have 2 … 11 tokens with EOS: 3 of them are longer than 8; 95 % fit into 11.
    (message,) = messages(caplog, examples(*range(1, 11)), T=8)
    assert message.startswith("30 % of the references of my data are longer than max_new_tokens=8")
    assert "max_new_tokens=11, which holds 95 %" in message
    assert "fit:8000" in message


@pytest.mark.parametrize(("rejected", "share"), [(9, 50), (3, None)])
def test_rejected_texts_of_pairs_are_counted(rejected, share, caplog):
    data = [Example("w3", ("w4 w4",), extras={"rejected": "w5 " * (rejected - 1) + "w5"})] * 4
    found = messages(caplog, Examples(data, source="my pairs"), T=5, env="tril/Text-v0")
    said = f"{share} % of the references and rejected texts of my pairs are longer than max_new_tokens=5"
    assert [message.startswith(said) for message in found] == ([] if share is None else [True])


@pytest.mark.parametrize(("count", "warns"), [(1, False), (2, True)])
def test_more_than_5_percent_is_the_threshold(count, warns, caplog):
    data = examples(*[3] * (20 - count), *[9] * count)
    assert len(messages(caplog, data, T=5)) == warns


def test_the_message_comes_once_for_each_data_set(caplog):
    data = examples(9, 9)
    for _ in range(3):
        found = messages(caplog, data, T=5)
        caplog.clear()
        assert len(found) == 1  # the cache is cleared before each
    with caplog.at_level(logging.WARNING):
        gym.make_vec("tril/CommonGen-v0", num_envs=3, vectorization_mode="sync", dataset=data, reward=None,
                     tokenizer=toy_tokenizer(16), max_new_tokens=5, max_prompt_length=8)  # fmt: skip
    assert caplog.records == []


def test_examples_to_evaluate_on_need_not_fit(caplog):
    data = Examples(examples(9, 9), source="held out", held_out=True)
    assert messages(caplog, data, T=5) == []


def test_reviews_are_cut_by_design(caplog):
    assert messages(caplog, examples(9, 9), T=5, env="tril/IMDB-v0") == []


@pytest.mark.parametrize("env", ["tril/CommonGen-v0", "tril/IMDB-v0", "tril/TLDR-v0", "tril/HH-v0"])
def test_embedded_references_fit(env, caplog):
    lengths._warn_once.cache_clear()
    gym.make(env, reward=None)
    assert caplog.records == []


def test_only_some_of_many_references_are_counted():
    data = Examples([Example("w3", ("w4",) * 10)] * 1000, source="many")
    assert 400 < len(lengths.reference_lengths(data, toy_tokenizer(16), " ")) <= lengths.COUNTED


class TestFittedTokenizer:
    def test_sizes(self):
        assert fitted_size("fit") == FITTED_SIZE
        assert fitted_size("fit:8000") == 8000

    @pytest.mark.parametrize("name", ["fit:", "fit:0", "fit:299", "fit:-5", "fit:many", "fit:1e4", "fit:8000.5"])
    def test_other_sizes_are_refused(self, name):
        with pytest.raises(ValueError, match=rf"tokenizer must be fit or fit:N .* at least 300, got '{name}'"):
            gym.make("tril/CommonGen-v0", tokenizer=name, reward=None)

    def test_the_size_bounds_the_vocabulary(self):
        few, many = (gym.make("tril/CommonGen-v0", tokenizer=f"fit:{n}", reward=None) for n in (300, 600))
        assert few.action_space.n <= 300 < many.action_space.n <= 600
