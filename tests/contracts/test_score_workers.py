"""Worker processes: the same scores, submitted as texts end, and helpful errors."""

import os
import time

import gymnasium as gym
import numpy as np
import pytest

from tril_gym.envs.text_vector_env import TextVectorEnv
from tril_gym.envs.toy import toy_config
from tril_gym.rewards import Score
from tril_gym.wrappers import TextReward

TOKEN, EOS = 5, 1


class Words(Score):
    """The number of words, with the id of the scoring process in the decimals."""

    name = "words"

    def __call__(self, prompts, completions, references, extras):
        return np.array([len(completion.split()) for completion in completions]) + os.getpid() * 1e-9


class Fails(Score):
    name = "fails"

    def __call__(self, prompts, completions, references, extras):
        raise ValueError(f"no score for {completions[0]!r}")


class Dies(Score):
    name = "dies"

    def __call__(self, prompts, completions, references, extras):
        os._exit(1)


def toys(score, rows=3, **keywords):
    envs = TextVectorEnv(toy_config().without_reward(), rows, autoreset_mode="Disabled")
    return TextReward(envs, score, **keywords)


def test_workers_score_each_text_from_its_last_step():
    envs = toys(Words(), workers=2, weight=2.0)
    try:
        envs.reset(seed=0, options={"defer": True})  # workers defer whatever the score
        assert envs.step([EOS, TOKEN, TOKEN])[1].tolist() == [0.0] * 3
        ((rows, scoring),) = envs._submitted
        assert rows == [0]
        scoring.result()  # available before the other rows end
        envs.step([0, EOS, TOKEN])
        rewards, _, _, infos = envs.step([0, 0, EOS])[1:]
        assert rewards.round(3).tolist() == [0.0, 2.0, 4.0]
        processes = {round((score % 1) * 1e9) for score in infos["scores"]["words"]}
        assert os.getpid() not in processes
        assert processes
        assert infos["scores"]["_words"].all()
        # An abandoned batch leaves nothing behind.
        envs.reset(options={"defer": True})
        envs.step([EOS, TOKEN, TOKEN])
        envs.reset(seed=1, options={"defer": True})
        assert envs._submitted == []
        assert envs.step([EOS, EOS, EOS])[1].round(3).tolist() == [0.0] * 3
        # Without deferring, a step waits for its own texts.
        envs.reset(seed=1)
        envs.step([TOKEN, TOKEN, TOKEN])
        assert envs.step([EOS, TOKEN, EOS])[1].round(3).tolist() == [2.0, 0.0, 2.0]
    finally:
        envs.close()


def test_errors_of_workers_name_reward_and_text():
    envs = toys(Fails(), workers=1)
    try:
        envs.reset(seed=0, options={"defer": True})
        envs.step([TOKEN, TOKEN, TOKEN])
        with pytest.raises(ValueError, match=r"reward 'fails' failed on the text 'w5' and 2 other texts: no score for"):
            envs.step([EOS, EOS, EOS])
        envs.reset(seed=0)  # nothing is pending
    finally:
        envs.close()


def test_a_dead_worker_is_reported():
    envs = toys(Dies(), workers=1)
    try:
        envs.reset(seed=0)
        with pytest.raises(RuntimeError, match=r'reward \'dies\'[\s\S]*__name__ == "__main__"'):
            envs.step([EOS, EOS, EOS])
    finally:
        envs.close()


def test_invalid_settings_of_workers_are_refused():
    with pytest.raises(ValueError, match=r"'<lambda>'|'lambda' cannot be sent to worker processes"):
        toys(lambda *columns: [0.0], workers=1)
    with pytest.raises(ValueError, match="workers must be at least 1 process and at most 1024, got -1"):
        toys(Words(), workers=-1)
    with pytest.raises(ValueError, match="workers=2 score texts while the other rows"):
        gym.make("tril/CommonGen-v0", reward="rouge_l", reward_settings={"rouge_l": {"workers": 2}})


def test_workers_are_a_key_of_reward_settings():
    settings = {"rouge_l": {"workers": 1, "reduction": "mean"}}
    totals = []
    for own in (settings, {"rouge_l": {"reduction": "mean"}}):
        envs = gym.make_vec(
            "tril/CommonGen-v0", num_envs=4, autoreset_mode="Disabled", reward="rouge_l", reward_settings=own
        )
        try:
            observations, _ = envs.reset(seed=0)
            words = envs.unwrapped.tokenizer(" the man plays with the dog", add_special_tokens=False)["input_ids"]
            totals.append(sum(envs.step(np.full(4, token))[1] for token in [*words, EOS]).tolist())
            begin = time.perf_counter()
        finally:
            envs.close()
        assert time.perf_counter() - begin < 20  # closing the environment ends the workers
        assert observations.shape[0] == 4
    assert totals[0] == totals[1]
    assert any(totals[0])
