"""A run folder of somebody else runs no code, and settings hold no secrets."""

import pytest

from tril_gym.experiment.trust import MASK, check_trusted, code_in, is_secret, masked, unmasked

CODE = {
    "env": {"env": "my_envs:mine/Toy-v0"},
    "env without a version": {"env": "my_envs:mine/Toy"},
    "guide": {"guide": "my_guides:f"},
    "server": {"guide": "http://host:8000/v1"},
    "reward": {"reward": {"rouge_l": 1.0, "my_rewards.deep:f": 0.5}},
    "reward in env_args": {"env_args": {"reward": {"my_rewards:f": 1.0}}},
    "settings of a reward": {"env_args": {"reward_settings": {"my_rewards:F": {"word": "a"}}}},
    "address in env_args": {"env_args": {"scorer": "https://example.org/score"}},
    "code of a model": {"trust_remote_code": True},
    "program of a reward": {"env_args": {"reward_settings": {"official_spice": {"corenlp": "/tmp/jars"}}}},
}


@pytest.mark.parametrize("name", CODE)
def test_code_that_only_the_folder_names_is_refused(name):
    settings = {"algorithm": "ppo", "iterations": 2} | CODE[name]
    with pytest.raises(ValueError, match=r"run/config\.yaml names code that would be run, --[\w-]+ .*--trust-code"):
        check_trusted(settings, {}, where="run/config.yaml", trust_code=False)
    check_trusted(settings, CODE[name], where="run/config.yaml", trust_code=False)  # the user names it as well
    check_trusted(settings, {}, where="run/config.yaml", trust_code=True)


def test_another_name_of_the_user_is_not_enough():
    with pytest.raises(ValueError, match="their_guides:f"):
        check_trusted({"guide": "their_guides:f"}, {"guide": "my_guides:f"}, where="x", trust_code=False)


def test_ordinary_settings_name_no_code():
    settings = {
        "env": "tril/Toy-v0",
        "dataset": "hub:owner/name",
        "guide": "references",
        "policy": "owner/model",
        "trust_remote_code": False,
        "reward": {"rouge_l": 1.0},
        "env_args": {"stop": ["Human:"], "max_new_tokens": 30, "reward_settings": {"spice": {"pipeline": None}}},
    }
    assert list(code_in(settings)) == []


SECRETS = ["api_key", "apikey", "OPENAI_API_KEY", "hf_token", "token", "password", "client_secret", "key", "auth"]
NO_SECRETS = [
    "tokenizer",
    "max_new_tokens",
    "eos_token",
    "pad_token_id",
    "stop_token",
    "monkey",
    "key_words",
    "authors",
]


@pytest.mark.parametrize(("names", "expected"), [(SECRETS, True), (NO_SECRETS, False)])
def test_names_of_secrets(names, expected):
    assert [name for name in names if is_secret(name) is not expected] == []


def test_masks_hide_values_and_are_filled_again():
    settings = {
        "env_args": {"url": "https://me:pw@host/x", "judge": {"api_key": "sk-1", "max_new_tokens": 3}},
        "seed": 1,
    }
    hidden = masked(settings)
    assert hidden == {
        "env_args": {"url": f"https://{MASK}@host/x", "judge": {"api_key": MASK, "max_new_tokens": 3}},
        "seed": 1,
    }
    assert unmasked(hidden, settings) == settings
    with pytest.raises(ValueError, match=r"env_args\.url is a secret, which a run folder does not hold"):
        unmasked(hidden, {})
    with pytest.raises(ValueError, match=r"env_args\.url is a secret"):
        unmasked(hidden, {"env_args": {"url": "https://me:pw@elsewhere/x"}})
