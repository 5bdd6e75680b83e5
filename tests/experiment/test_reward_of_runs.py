"""Which reward a run and its evaluation have: the preset's, the environment's, or one that is named."""

import json
from dataclasses import replace

import pytest

from tril_gym.experiment import actors, configure
from tril_gym.experiment.build import _evaluated_config
from tril_gym.experiment.config import RunConfig
from tril_gym.experiment.environments import make_envs, reward_of
from tril_gym.wrappers import terms

COMMON_GEN = {"cider_d": 0.1, "concept_coverage": 1.0}


def evaluated(config, env_args=None, **given):
    return _evaluated_config(config, env_args or {}, {"num_envs": 2} | given)


def terms_of(config):
    return [term.name for term in terms(make_envs(config, {"dataset": "embedded"}, None))]


@pytest.mark.parametrize(
    ("config", "reward"),
    [
        (RunConfig(algorithm="none", env="tril/CommonGen-v0"), COMMON_GEN),
        (configure("ppo"), COMMON_GEN),
        (configure("ppo", env_args={"reward": "rouge_l"}), {"rouge_l": 1.0}),
        (configure("ppo", env_args={"reward": {"bleu": 0.5}}), {"bleu": 0.5}),
        (configure("ppo", env_args={"reward": None}), None),
        (configure("ppo", env="tril/Toy-v0"), None),
    ],
)
def test_the_reward_is_known_wherever_it_is_named(config, reward):
    assert reward_of(config) == reward


def test_the_reward_of_an_evaluation_replaces_that_of_the_run():
    usual, by_keyword = configure("ppo"), configure("ppo", env_args={"reward": "rouge_l"})
    assert evaluated(usual, {"reward": "bleu"}).env_args["reward"] == "bleu"
    assert evaluated(by_keyword, {"reward": "bleu"}).env_args["reward"] == "bleu"
    found = evaluated(by_keyword, reward={"bleu": 1.0})
    assert (found.reward, "reward" in found.env_args) == ({"bleu": 1.0}, False)
    assert evaluated(by_keyword).env_args["reward"] == "rouge_l"
    with pytest.raises(ValueError, match="--reward, which is given too"):
        evaluated(usual, {"reward": "bleu"}, reward={"rouge_l": 1.0})


@pytest.mark.parametrize("settings", [{}, {"env_args": {"reward_settings": {"sentiment": {"max_length": 64}}}}])
def test_another_environment_has_its_own_reward(settings):
    found = evaluated(configure("ppo", env="tril/IMDB-v0", **settings), env="tril/CommonGen-v0")
    assert terms_of(found) == list(COMMON_GEN)
    chosen = configure("ppo", env="tril/IMDB-v0", reward={"rouge_l": 1.0})
    assert evaluated(chosen, env="tril/CommonGen-v0").reward == {"rouge_l": 1.0}


def test_a_reward_by_keyword_wins_over_the_settings_of_a_preset():
    config = configure("ppo", env="tril/IMDB-v0", preset="tril", env_args={"reward": "rouge_l"}, num_envs=2)
    assert "reward_settings" not in config.env_args
    assert terms_of(config) == ["rouge_l"]


def test_a_reward_by_keyword_wins_over_that_of_a_preset():
    config = configure("ppo", env="tril/IMDB-v0", env_args={"reward": "rouge_l"}, num_envs=2)
    assert terms_of(config) == ["rouge_l"]
    assert configure("ppo", env="tril/IMDB-v0").reward == {"sentiment": 1.0, "repetition_penalty": 5.0}


def test_an_id_with_its_module_has_the_same_settings():
    with_module = configure("ppo", env="tril_gym:tril/IMDB-v0")
    assert replace(with_module, env="tril/IMDB-v0") == configure("ppo", env="tril/IMDB-v0")


def test_where_no_review_praises_the_guide_imitates_all(tmp_path, monkeypatch, caplog):
    rows = [{"text": f"it was {number} times as bad as the other film", "label": 0} for number in range(4)]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = configure("ppo-pp", env="tril/IMDB-v0", num_envs=2, reward={"rouge_l": 1.0})
    asked = []

    def spy(envs, **settings):
        asked.append(settings["positive_only"])
        raise KeyboardInterrupt

    monkeypatch.setattr("tril_gym.agents.tiny.tiny_guide", spy)
    for dataset in (str(tmp_path / "bad.jsonl"), "embedded"):
        with pytest.raises(KeyboardInterrupt):
            actors.guide_for(config, make_envs(config, {"dataset": dataset}, None), None)
    assert asked == [False, True]
    assert caplog.text.count("no training example is labelled 1") == 1
