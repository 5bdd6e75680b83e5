"""Texts of one length, which the vector environment writes column by column."""

import gymnasium as gym
import numpy as np
import pytest

import tril_gym  # noqa: F401  registers the environments

ROWS, LIMIT = 4, 5


@pytest.fixture
def envs():
    made = gym.make_vec(
        "tril/CommonGen-v0", num_envs=ROWS, reward=None, max_new_tokens=LIMIT, autoreset_mode="Disabled"
    )
    made.reset(seed=0)
    return made


def word(envs) -> int:
    text = envs.metadata["text"]
    return next(token for token in range(text["vocab_size"]) if token not in text["eos_token_ids"])


def test_texts_without_eos_end_together_at_the_limit(envs):
    actions = np.full(ROWS, word(envs))
    for step in range(1, LIMIT + 1):
        observations, _, terminated, truncated, infos = envs.step(actions)
        assert terminated.tolist() == [step == LIMIT] * ROWS
        assert not truncated.any()
        assert ((observations[:, -LIMIT:] >= 0).sum(1) == step).all()
    assert list(infos["finish_reason"]) == ["length"] * ROWS
    assert all(len(tokens) == LIMIT for tokens in infos["tokens"])


def test_one_eos_leaves_the_others_writing(envs):
    actions = np.full(ROWS, word(envs))
    envs.step(actions)
    actions[1] = envs.metadata["text"]["eos_token_ids"][0]
    terminated = envs.step(actions)[2]
    assert terminated.tolist() == [False, True, False, False]
    for step in range(3, LIMIT + 1):
        terminated = envs.step(np.full(ROWS, word(envs)))[2]
        assert terminated.tolist() == [step == LIMIT, False, step == LIMIT, step == LIMIT]


def test_a_restart_at_the_length_of_texts_that_ended_leaves_them_ended(envs):
    token, eos = word(envs), envs.metadata["text"]["eos_token_ids"][0]
    envs.step(np.full(ROWS, token))
    ended, *_ = envs.step(np.array([token, eos, eos, eos]))
    completion = np.full((ROWS, LIMIT), token)
    completion[:, 2:] = -1
    mask = np.arange(ROWS) == 1
    envs.reset(options={"reset_mask": mask, "example": np.zeros(ROWS, int), "completion": completion})
    observations, _, terminated, _, _ = envs.step(np.full(ROWS, eos))
    assert terminated.tolist() == [True, True, False, False]
    np.testing.assert_array_equal(observations[2:], ended[2:])


def test_frames_show_what_is_written_so_far():
    envs = gym.make_vec("tril/CommonGen-v0", num_envs=ROWS, reward=None, render_mode="ansi")
    envs.reset(seed=0)
    token = envs.unwrapped.tokenizer.encode(" dog", add_special_tokens=False)[0]
    for step in (1, 2):
        envs.step(np.full(ROWS, token))
        assert all(frame.count("dog") == step for frame in (frame.split("\n> ")[1] for frame in envs.render()))
