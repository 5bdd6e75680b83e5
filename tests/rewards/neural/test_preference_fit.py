"""The small reward model that the preference reward fits to pairs among the train examples."""

import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from instruct_model import instruct_tokenizer
from preference_pairs import polite_pairs

from tril_gym import rewards
from tril_gym.data import Example
from tril_gym.experiment.metrics import metrics_by_name
from tril_gym.rewards.neural import preference_fit
from tril_gym.rewards.neural.training import FitConfig
from tril_gym.utils.tokenization import after_joiner

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
    (metric,) = metrics_by_name(["preference"], {"preference": {"batch_size": 2}}, env)  # not that of the environment
    assert metric.fitted_folder == fitted
    assert fitted != rewards.load("preference", train=examples()).fitted_folder


@pytest.mark.parametrize("joiner", ["", " ", "\n"])
def test_chats_are_fitted_with_the_joiner_of_their_template(joiner):
    """Which the policy writes before an answer, whatever the rendered prompt ends with."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + ':' }}{% if m.role == 'assistant' %}{{ '"
        + joiner.replace("\n", "\\n")
        + "' }}{% endif %}{{ m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}"
    )
    pairs = [replace(e, messages=({"role": "user", "content": e.prompt},)) for e in examples()]
    pairs = [replace(e, references=(e.references[0].strip(),)) for e in pairs]
    env = gym.make("tril/Text-v0", dataset=pairs, tokenizer=instruct_tokenizer(template), reward=None)
    assert env.metadata["text"]["joiner"] == joiner
    chosen, rejected = preference_fit.pair_texts(env.unwrapped.examples_to_fit(), "{prompt}{completion}")[0]
    prompt, answers = (
        env.reset(options={"example": 0})[1]["prompt"],
        (pairs[0].references[0], pairs[0].extras["rejected"]),
    )
    assert [chosen, rejected] == [prompt + after_joiner(joiner, answer) for answer in answers]


def test_examples_without_pairs_are_refused():
    reward = rewards.load("preference", train=[Example("a", references=("b",))] * 30 + examples()[:5])
    with pytest.raises(
        ValueError, match=r"preference has no model; pass model=NAME .*at least 20 train examples.*got 5"
    ):
        score(reward, [" it is kind"])


def test_each_template_has_a_model_which_keeps_it(tmp_path):
    alone = rewards.load("preference", train=examples(), template="{completion}")
    assert alone.fitted_folder != rewards.load("preference", train=examples()).fitted_folder
    alone.save(tmp_path)
    assert rewards.load("preference", fitted=tmp_path).template == "{completion}"


def test_completions_with_and_without_the_space_are_fitted_alike():
    spaced = examples()
    plain = [Example(e.prompt, (e.references[0].strip(),), extras={"rejected": e.extras["rejected"]}) for e in spaced]
    bare = [Example(e.prompt, e.references, extras={"rejected": e.extras["rejected"].strip()}) for e in plain]
    texts = [" it is clear of her", " it is vague of her"]
    fitted = score(rewards.load("preference", train=spaced), texts)
    assert score(rewards.load("preference", train=bare), texts) == pytest.approx(fitted, abs=1e-6)


def test_of_long_texts_the_end_is_read(monkeypatch):
    monkeypatch.setattr(preference_fit, "FIT_CONFIG", replace(QUICK, positions=16))
    train = [replace(e, prompt="a long question " * 9, references=(e.references[0] + " yes",)) for e in examples()]
    found = report(rewards.load("preference", train=train))
    assert (found["max_length"], found["held_out_accuracy"], found["longer_is_better"]) == (16, 1.0, 1.0)


def test_of_too_many_pairs_some_of_all_parts_are_taken(monkeypatch):
    monkeypatch.setattr(preference_fit, "MAX_PAIRS", 25)
    texts = preference_fit.pair_texts(examples(), "{prompt}|{completion}")
    assert [chosen.partition("|")[0] for chosen, _ in texts] == [f"question 0 {4 * number}?" for number in range(20)]


def test_a_named_model_is_not_copied(tmp_path):
    fitted = rewards.load("preference", train=examples()).fitted_folder
    assert rewards.load("preference", model=fitted, fitted=tmp_path).model == str(fitted)  # nothing is fitted there
    rewards.load("preference", model=fitted, train=examples()).save(tmp_path)
    assert list(tmp_path.iterdir()) == []
