"""The small reward model that the preference reward fits to pairs among the train examples."""

import json

import gymnasium as gym
import numpy as np
import pytest
from instruct_model import instruct_tokenizer
from preference_pairs import polite_pairs

from tril_gym import rewards
from tril_gym.data import Example
from tril_gym.rewards.neural import preference_fit
from tril_gym.rewards.neural.training import FitConfig

QUICK = FitConfig(vocab_size=400, width=32, steps=60, warmup=5, batch_size=8)


@pytest.fixture(autouse=True)
def quick_fit(monkeypatch):
    """Fit with few steps, which tiny data need."""
    monkeypatch.setattr(preference_fit, "FIT_CONFIG", QUICK)


def examples(**settings):
    return [
        Example(pair.prompt, references=(pair.chosen,), extras={"rejected": pair.rejected})
        for pair in polite_pairs(80, **settings)
    ]


def score(reward, completions):
    number = len(completions)
    return reward(["question 0 7?"] * number, completions, [[]] * number, [{}] * number)


def report(reward):
    return json.loads((reward.fitted_folder / "reward_model.json").read_text())


def test_preferred_words_score_higher():
    reward = rewards.load("preference", train=examples())
    kind, rude = score(reward, [" it is kind of you", " it is rude of you"])
    assert kind - rude > 2
    assert report(reward)["held_out_accuracy"] == 1.0


def test_random_preferences_teach_nothing():
    assert report(rewards.load("preference", train=examples(swapped=True)))["held_out_accuracy"] < 0.9


def test_the_report_has_what_length_alone_gives():
    found = report(rewards.load("preference", train=examples()))
    assert set(found) == {"template", "max_length", "held_out_accuracy", "longer_is_better", "held_out"}
    assert found["held_out"] == 8


def test_saved_and_fitted_alike(tmp_path):
    """A run's folder gives the scores of the run, and the fitted folder is that of an ordinary reward model."""
    first = rewards.load("preference", train=examples())
    first.save(tmp_path)
    texts = [" it is clear of her", " it is vague of her", ""]
    for again in (
        rewards.load("preference", fitted=tmp_path),
        rewards.load("preference", train=examples()),
        rewards.load("preference", model=tmp_path / "preference"),
    ):
        np.testing.assert_allclose(score(again, texts), score(first, texts), atol=1e-6)


def test_other_rejected_completions_are_another_model():
    """The prompts and the chosen completions are the same."""
    plain, other = examples(), [Example(e.prompt, e.references, extras={"rejected": " no"}) for e in examples()]
    folders = {rewards.load("preference", train=train).fitted_folder for train in (plain, other)}
    assert len(folders) == 2


def test_chats_are_fitted_as_they_are_scored():
    """The same content is fitted once, so its folder shows what an environment's reward is fitted to."""
    chats = {"tokenizer": instruct_tokenizer(), "system_prompt": "You are", "dataset": examples()}
    env = gym.make("tril/Text-v0", reward="preference", max_prompt_length=60, max_new_tokens=9, **chats)
    infos = [env.reset(options={"example": index})[1] for index in range(80)]
    shown = [Example(info["prompt"], tuple(info["references"]), extras=info["extras"]) for info in infos]
    fitted = env.get_wrapper_attr("score").fitted_folder
    assert fitted == rewards.load("preference", train=shown).fitted_folder
    assert fitted != rewards.load("preference", train=examples()).fitted_folder


def test_examples_without_pairs_are_refused():
    reward = rewards.load("preference", train=[Example("a", references=("b",))] * 30 + examples()[:5])
    with pytest.raises(
        ValueError, match=r"preference has no model; pass model=NAME .*at least 20 train examples.*got 5"
    ):
        score(reward, [" it is kind"])


def test_a_named_model_is_not_copied(tmp_path):
    fitted = rewards.load("preference", train=examples()).fitted_folder
    rewards.load("preference", model=fitted, train=examples()).save(tmp_path)
    assert list(tmp_path.iterdir()) == []
