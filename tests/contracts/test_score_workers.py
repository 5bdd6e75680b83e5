"""Rewards that are scored in worker processes: the same pay, begun as texts end, and errors that say what to do."""

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
    """How many words a completion has, and in which process that was counted."""

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


def test_texts_are_scored_elsewhere_from_the_step_at_which_they_end():
    envs = toys(Words(), workers=2, weight=2.0)
    try:
        envs.reset(seed=0, options={"defer": True})  # which workers take up, whatever the score
        assert envs.step([EOS, TOKEN, TOKEN])[1].tolist() == [0.0] * 3
        ((rows, scoring),) = envs._submitted
        assert rows == [0]
        scoring.result()  # there before the others have ended
        envs.step([0, EOS, TOKEN])
        rewards, _, _, infos = envs.step([0, 0, EOS])[1:]
        assert rewards.round(3).tolist() == [0.0, 2.0, 4.0]
        processes = {round((score % 1) * 1e9) for score in infos["scores"]["words"]}
        assert os.getpid() not in processes
        assert processes
        assert infos["scores"]["_words"].all()
        # A batch that is given up leaves nothing behind.
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


def test_what_a_worker_raises_names_reward_and_text():
    envs = toys(Fails(), workers=1)
    try:
        envs.reset(seed=0, options={"defer": True})
        envs.step([TOKEN, TOKEN, TOKEN])
        with pytest.raises(ValueError, match=r"reward 'fails' failed on the text 'w5' and 2 other texts: no score for"):
            envs.step([EOS, EOS, EOS])
        envs.reset(seed=0)  # and nothing waits any more
    finally:
        envs.close()


def test_a_worker_that_dies_is_told_of():
    envs = toys(Dies(), workers=1)
    try:
        envs.reset(seed=0)
        with pytest.raises(RuntimeError, match=r'reward \'dies\'[\s\S]*__name__ == "__main__"'):
            envs.step([EOS, EOS, EOS])
    finally:
        envs.close()


def test_mistakes_are_refused_at_the_door():
    with pytest.raises(ValueError, match=r"'<lambda>'|'lambda' cannot be sent to worker processes"):
        toys(lambda *columns: [0.0], workers=1)
    with pytest.raises(ValueError, match="workers must be at least 1 process, got -1"):
        toys(Words(), workers=-1)
    with pytest.raises(ValueError, match="workers=2 score texts while the other rows"):
        gym.make("tril/CommonGen-v0", reward="rouge_l", reward_settings={"rouge_l": {"workers": 2}})


def test_they_are_asked_for_beside_the_settings_of_a_reward():
    settings = {"rouge_l": {"workers": 1, "reduction": "mean"}}
    pays = []
    for own in (settings, {"rouge_l": {"reduction": "mean"}}):
        envs = gym.make_vec(
            "tril/CommonGen-v0", num_envs=4, autoreset_mode="Disabled", reward="rouge_l", reward_settings=own
        )
        try:
            observations, _ = envs.reset(seed=0)
            words = envs.unwrapped.tokenizer(" the man plays with the dog", add_special_tokens=False)["input_ids"]
            pays.append(sum(envs.step(np.full(4, token))[1] for token in [*words, EOS]).tolist())
            begin = time.perf_counter()
        finally:
            envs.close()
        assert time.perf_counter() - begin < 20  # workers end when the environment is closed
        assert observations.shape[0] == 4
    assert pays[0] == pays[1]
    assert any(pays[0])
