"""Keywords of `gym.make`, specifications, and data that environments share."""

import copy

import gymnasium as gym
import numpy as np
import pytest
from contract_checks import CHEAP, EXAMPLES, IDS, TOKEN, bare, same
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode

from tril_gym.envs.toy import toy_config
from tril_gym.registration import (
    ENVIRONMENTS,
    Registration,
    accepts_dataset,
    make_text_env,
    make_text_vector_env,
)
from tril_gym.wrappers.reward_term import terms


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens .* got 0"),
        ({"max_prompt_length": 2.5}, "max_prompt_length .* got 2.5"),
        ({"min_new_tokens": 99}, "min_new_tokens .* got 99"),
        ({"prompt_truncation_side": "top"}, "'top'"),
        ({"dataset": "no/such/place"}, "'no/such/place'"),
        ({"dataset": 5}, "int"),
        ({"dataset": []}, "none in the list"),
        ({"split": "trian"}, "'trian'"),
        ({"on_bad_row": "ignore"}, "'ignore'"),
        ({"tokenizer": None}, "None"),
        ({"reward": "no_such_reward"}, "no_such_reward"),
        ({"reward": {"rouge_l": "much"}}, "'much'"),
        ({"reward": {"rouge_l": float("nan")}}, "must be a number in"),
        ({"reward": 3}, "got 3"),
        ({"reward_settings": {"cider_d": {}}}, "cider_d"),
        ({"reward": "rouge_l", "fitted_rewards": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_invalid_keywords_are_refused(keywords, message):
    reward = {"reward": "rouge_l"} | keywords
    with pytest.raises(ValueError, match=message):
        gym.make("tril/IMDB-v0", **reward)
    with pytest.raises(ValueError, match=message):
        gym.make_vec("tril/IMDB-v0", num_envs=2, **reward)


def test_a_tokenizer_without_eos_is_refused():
    tokenizer = copy.deepcopy(bare("tril/Toy-v0").tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no EOS"):
        bare("tril/IMDB-v0", dataset=EXAMPLES, tokenizer=tokenizer)


@pytest.mark.parametrize("env_id", IDS)
def test_plain_specs_survive_json(env_id):
    own = {"rule": "stop"} if env_id == "tril/Toy-v0" else {"split": "validation", "reward": {"rouge_l": 0.5}}
    env = gym.make(env_id, max_new_tokens=6, **own)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec
    assert [term.weight for term in terms(again)] == [term.weight for term in terms(env)]
    same(again.reset(seed=0), env.reset(seed=0))
    envs = gym.make_vec(env_id, num_envs=2, max_new_tokens=6, autoreset_mode=AutoresetMode.DISABLED, **own)
    vector_spec = EnvSpec.from_json(envs.unwrapped.spec.to_json())
    again = gym.make_vec(vector_spec)
    assert again.metadata == envs.metadata
    same(again.reset(seed=0), envs.reset(seed=0))


def test_copies_of_specs_share_their_objects():
    tokenizer = bare("tril/Toy-v0").tokenizer

    def my_reward(prompts, completions, references, extras):
        return np.ones(len(prompts))

    keywords = {"dataset": EXAMPLES, "tokenizer": tokenizer, "reward": {"mine": my_reward}}
    env = gym.make("tril/IMDB-v0", **keywords)
    again = gym.make(copy.deepcopy(env.spec))
    assert again.unwrapped.tokenizer is tokenizer
    assert again.unwrapped.examples is env.unwrapped.examples
    assert again.unwrapped.examples[0] is EXAMPLES[0]
    assert terms(again)[0].score.function.function is my_reward
    envs = gym.make_vec("tril/IMDB-v0", num_envs=2, **keywords)
    again = gym.make_vec(copy.deepcopy(envs.spec))
    assert again.unwrapped.tokenizer is tokenizer
    assert again.unwrapped.examples is env.unwrapped.examples
    again = gym.make_vec("tril/IMDB-v0", num_envs=2, vectorization_mode="sync", **keywords)
    assert all(examples is env.unwrapped.examples for examples in again.get_attr("examples"))


def test_environments_share_examples_and_prompts():
    one, two = bare("tril/CommonGen-v0"), make_text_vector_env("tril/CommonGen-v0", 2, reward=None)
    assert one.examples is two.examples
    assert one.config.prompts is two.config.prompts
    assert one.tokenizer is two.tokenizer
    other = bare("tril/CommonGen-v0", max_prompt_length=19)
    assert other.examples is one.examples
    assert other.config.prompts is not one.config.prompts


@pytest.mark.parametrize("env_id", IDS)
def test_a_copied_environment_is_independent(env_id):
    env = gym.make(env_id, **CHEAP[env_id])
    env.reset(seed=0)
    env.step(TOKEN)
    branch = copy.deepcopy(env)
    assert branch.unwrapped.examples is env.unwrapped.examples
    same(branch.step(7), env.step(7))
    branch.step(8)
    assert env.unwrapped.step(9)[0].tolist() != branch.unwrapped.step(9)[0].tolist()


def test_every_row_of_the_table_is_registered():
    assert {env_id: gym.spec(env_id).kwargs for env_id in ENVIRONMENTS} == {
        env_id: {"env_id": env_id} for env_id in ENVIRONMENTS
    }
    assert sorted(ENVIRONMENTS) == sorted(IDS)


def test_an_environment_is_added_by_one_row(monkeypatch):
    row = Registration(config="toy:toy_config", default_reward={"rouge_l": 2.0})
    monkeypatch.setitem(ENVIRONMENTS, "tril/New-v0", row)
    env = make_text_env("tril/New-v0", max_new_tokens=3)
    assert env.metadata["text"]["max_new_tokens"] == 3
    assert [(term.name, term.weight) for term in terms(env)] == [("rouge_l", 2.0)]
    assert not accepts_dataset("tril/New-v0")


def test_which_environments_accept_a_dataset():
    assert [env_id for env_id in IDS if accepts_dataset(env_id)] == IDS[1:]
    assert not accepts_dataset("CartPole-v1")


def test_unknown_ids_and_keywords_are_refused():
    with pytest.raises(
        ValueError, match=r"unknown environment 'tril/Nothing-v0' .*; the environments are tril/IMDB-v0"
    ):
        make_text_env("tril/Nothing-v0")
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'rule'; its own are dataset, split"):
        gym.make("tril/IMDB-v0", rule="stop")
    with pytest.raises(TypeError, match=r"'autoreset_mode', which is of vector environments: .* in vector_kwargs="):
        gym.make_vec("tril/Toy-v0", num_envs=2, vectorization_mode="sync", autoreset_mode="SameStep")


def test_without_reward_keeps_the_first_configuration():
    config = toy_config(dense=True)
    without = config.without_reward()
    assert (without.reward_fn, without.metadata("rows")["dense_reward"]) == (None, False)
    assert config.reward_fn is not None
    assert config.metadata("rows") == without.metadata("rows") | {"dense_reward": True}
