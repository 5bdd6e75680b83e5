"""Deferred rewards of a vector environment: full resets, resets of some rows, and truncation."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import VectorWrapper

import tril_gym  # noqa: F401  registers the environments
from tril_gym.rewards import Score
from tril_gym.wrappers import TextReward

ROWS = 4


class Lengths(Score):
    """Score a text by the number of its words, and keep the batches that were scored."""

    name = "lengths"
    slow = True

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def __call__(self, prompts, completions, references, extras):
        self.batches.append(list(completions))
        return np.array([float(len(text.split())) for text in completions])


class TruncateRow(VectorWrapper):
    """Report row 0 as truncated at its step `at`, if it has not ended by then."""

    def __init__(self, env, at: int) -> None:
        super().__init__(env)
        self.at, self.steps = at, 0

    def reset(self, **keywords):
        self.steps = 0
        return self.env.reset(**keywords)

    def step(self, actions):
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        self.steps += 1
        truncated = truncated.copy()
        truncated[0] |= self.steps == self.at and not terminated[0]
        return observations, rewards, terminated, truncated, infos


def envs_with(wrap=lambda env: env) -> tuple[TextReward, Lengths, int, int]:
    """Return an environment that pays nothing of its own, its score, the id of EOS and that of a word."""
    envs = wrap(gym.make_vec("tril/Toy-v0", num_envs=ROWS, autoreset_mode="Disabled", rule="prefix"))
    score = Lengths()
    text = envs.metadata["text"]
    eos = text["eos_token_ids"][0]
    word = next(token for token in range(2, text["vocab_size"]) if token != eos)
    return TextReward(envs, score), score, eos, word


def step(envs, *actions: int) -> np.ndarray:
    return envs.step(np.array(actions))[1]


def test_whole_batch_is_paid_when_its_last_row_ends():
    envs, score, eos, word = envs_with()
    envs.reset(seed=0, options={"defer": True})
    assert step(envs, eos, word, word, word).tolist() == [0, 0, 0, 0]
    assert step(envs, eos, eos, word, word).tolist() == [0, 0, 0, 0]
    assert step(envs, eos, eos, eos, eos).tolist() == [0, 1, 2, 2]
    assert len(score.batches) == 1


def test_full_reset_gives_up_rewards_that_wait():
    envs, score, eos, word = envs_with()
    envs.reset(seed=0, options={"defer": True})
    step(envs, word, word, word, word)
    step(envs, eos, eos, word, word)  # two rows wait with one word each
    envs.reset(seed=1, options={"defer": True})
    assert step(envs, eos, word, word, word).tolist() == [0, 0, 0, 0]
    assert step(envs, eos, eos, eos, eos).tolist() == [0, 1, 1, 1]
    assert score.batches == [["", *score.batches[0][1:]]]  # nothing of the first batch was scored
    assert len(score.batches[0]) == ROWS


def test_full_reset_without_the_offer_pays_at_once():
    envs, score, eos, word = envs_with()
    envs.reset(seed=0, options={"defer": True})
    step(envs, word, word, word, word)
    envs.reset(seed=1)
    step(envs, word, word, word, word)
    assert step(envs, eos, word, word, word).tolist() == [1, 0, 0, 0]
    assert len(score.batches) == 1


def test_reset_of_some_rows_leaves_the_others_deferred():
    envs, score, eos, word = envs_with()
    envs.reset(seed=0, options={"defer": True})
    step(envs, word, word, word, word)
    step(envs, eos, word, word, word)  # row 0 waits
    envs.reset(options={"reset_mask": np.array([False, True, False, False])})  # row 1 starts again, and is paid at once
    assert step(envs, eos, word, word, word).tolist() == [0, 0, 0, 0]
    assert step(envs, eos, eos, word, word).tolist() == [0, 1, 0, 0]
    assert score.batches == [score.batches[0]]
    assert step(envs, eos, eos, eos, eos).tolist() == [1, 0, 4, 4]
    assert len(score.batches) == 2


def test_restarted_row_that_is_deferred_holds_back_the_batch():
    envs, _, eos, word = envs_with()
    envs.reset(seed=0, options={"defer": True})
    step(envs, word, word, word, word)
    mask = np.array([False, True, False, False])
    envs.reset(options={"reset_mask": mask, "defer": True})
    assert step(envs, eos, word, eos, eos).tolist() == [0, 0, 0, 0]
    assert step(envs, eos, eos, eos, eos).tolist() == [1, 1, 1, 1]


def test_row_whose_reward_waits_cannot_begin_anew():
    envs, _, eos, word = envs_with()
    envs.reset(seed=0, options={"defer": True})
    step(envs, word, word, word, word)
    step(envs, eos, word, word, word)
    mask = np.array([True, False, False, False])
    with pytest.raises(ValueError, match=r"\[0\].*before their deferred reward"):
        envs.reset(options={"reset_mask": mask})


def test_truncated_row_does_not_hold_back_the_batch():
    envs, score, eos, word = envs_with(lambda env: TruncateRow(env, at=3))
    envs.reset(seed=0, options={"defer": True})
    step(envs, word, word, word, word)
    assert step(envs, word, eos, eos, eos).tolist() == [0, 0, 0, 0]
    assert step(envs, word, eos, eos, eos).tolist() == [0, 1, 1, 1]  # row 0 is cut here, without a score
    assert [len(batch) for batch in score.batches] == [3]


def test_abandoned_texts_are_not_paid_after_a_full_reset():
    envs, score, eos, word = envs_with()
    envs.reset(seed=0, options={"defer": True})
    step(envs, word, word, word, word)
    step(envs, eos, word, word, word)  # row 0 waits with one word
    envs.reset(seed=1)  # without the offer: texts are paid as they end
    step(envs, word, word, word, word)
    step(envs, word, word, word, word)
    assert step(envs, eos, eos, eos, eos).tolist() == [2, 2, 2, 2]
    assert [len(batch) for batch in score.batches] == [ROWS]
