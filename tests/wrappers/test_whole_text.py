"""A step that writes a whole text equals the steps that write its tokens."""

import functools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from text_doubles import EXAMPLES, TOKENIZERS

from tril_gym.utils.text_codec import TextCodec
from tril_gym.wrappers import TextReward, WholeText

MODES = ["NextStep", "SameStep"]


def common_gen(**keywords):
    return gym.make("tril/CommonGen-v0", reward="rouge_l", **keywords)


def written_by_tokens(env, tokens, **reset):
    env.reset(**reset)
    total = 0.0
    for token in tokens:
        _, reward, terminated, truncated, info = env.step(token)
        total += reward
        if terminated or truncated:
            break
    return total, info


def test_one_step_writes_a_reference_and_earns_its_whole_reward():
    env = WholeText(common_gen())
    prompt, info = env.reset(seed=0)
    assert prompt == info["prompt"]
    reference = info["references"][0]
    text, reward, terminated, truncated, info = env.step(reference)
    assert text == f"{prompt} {reference}"
    assert (reward, terminated, truncated) == (pytest.approx(1.0), True, False)
    assert info["finish_reason"] == "stop"


@pytest.mark.parametrize("text", [" the dog runs", "the dog runs", "", "a <eos> b", "naïve", "dog " * 40])
def test_it_equals_the_steps_of_its_tokens(text):
    bare = common_gen()
    joined = text if not text or text[0].isspace() else f" {text}"
    ids = bare.unwrapped.tokenizer(joined, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    total, info = written_by_tokens(bare, [*ids, 1], seed=3)
    env = WholeText(common_gen())
    prompt, _ = env.reset(seed=3)
    whole, reward, *flags, found = env.step(text)
    assert (reward, flags) == (total, [True, False])
    assert found == info
    assert whole == prompt + info["completion"]
    assert info["finish_reason"] == ("length" if text.startswith("dog dog") else "stop")


def test_a_restart_goes_on_behind_its_completion():
    bare = common_gen()
    ids = bare.unwrapped.tokenizer(" the dog", add_special_tokens=False)["input_ids"]
    env = WholeText(common_gen())
    begun, info = env.reset(options={"example": 2, "completion": ids})
    assert begun == info["prompt"] + " the dog"
    assert env.step(" runs")[0] == info["prompt"] + " the dog runs"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_text_is_written_as_it_is_given(name):
    """With one space after the prompt, and after a restart within a word with none, whatever the tokenizer."""
    tokenizer = TOKENIZERS[name]()
    example, begun = EXAMPLES[0], TextCodec(tokenizer).ids(" the d")
    settings = {"dataset": [example], "tokenizer": tokenizer, "reward": None, "max_new_tokens": 30}
    env = WholeText(gym.make("tril/Text-v0", **settings))
    envs = WholeText(gym.make_vec("tril/Text-v0", num_envs=1, autoreset_mode="Disabled", **settings))
    for text in ("the dog", " the dog"):
        env.reset(seed=0)
        envs.reset(seed=0)
        assert env.step(text)[0] == envs.step([text])[0][0] == f"{example.prompt} the dog"
    assert env.reset(options={"example": 0, "completion": begun})[0] == f"{example.prompt} the d"
    assert env.step("og runs")[0] == f"{example.prompt} the dog runs"


def test_rows_of_a_vector_environment_equal_single_ones():
    texts = ["the dog runs", "a cat", "", "dog " * 40]
    envs = WholeText(gym.make_vec("tril/CommonGen-v0", num_envs=4, autoreset_mode="Disabled", reward="rouge_l"))
    for seed in (0, 10):
        prompts, infos = envs.reset(seed=seed)
        written, rewards, terminated, truncated, infos = envs.step(texts)
        assert terminated.all()
        assert not truncated.any()
        for row, text in enumerate(texts):
            env = WholeText(common_gen())
            assert env.reset(seed=seed + row)[0] == prompts[row]
            whole, reward, *_, info = env.step(text)
            assert (written[row], rewards[row]) == (whole, reward)
            assert infos["completion"][row] == info["completion"]
            assert infos["scores"]["rouge_l"][row] == info["scores"]["rouge_l"]
    assert written in envs.observation_space


def test_a_text_ends_with_the_eos_of_the_tokenizer_where_several_end_texts():
    env = WholeText(common_gen(eos_token_ids=[0, 1]))
    env.reset(seed=0)
    assert env.step("the dog runs")[4]["tokens"][-1] == 1


def test_rewards_of_single_tokens_add_up():
    env = WholeText(gym.make("tril/Toy-v0", dense=True))
    env.reset(seed=0)
    assert env.step("w2 w3 w5 w8")[1] == pytest.approx(3 / 8), "w2, w5 and w8 are good words, of T = 8"


def test_deferred_rewards_are_paid_in_the_one_step():
    def ones(completions):
        return [1.0] * len(completions)

    envs = gym.make_vec("tril/CommonGen-v0", num_envs=2, autoreset_mode="Disabled", reward=None)
    envs = WholeText(TextReward(TextReward(envs, ones, name="late", defer=True), ones, name="at once"))
    envs.reset(seed=0)
    *_, rewards, _, _, infos = envs.step(["a dog", "a cat runs"])
    assert rewards.tolist() == [2.0, 2.0]
    assert infos["scores"]["late"].tolist() == infos["scores"]["at once"].tolist() == [1.0, 1.0]


def test_a_text_that_a_limit_of_steps_cuts_is_shown_as_far_as_it_was_written():
    env = WholeText(common_gen(max_episode_steps=2))
    prompt, _ = env.reset(seed=0)
    assert env.step("the dog runs") == (f"{prompt} the dog", 0.0, False, True, {})
    with pytest.raises(ResetNeeded, match="it has ended"):
        env.step("in the park")
    envs = gym.make_vec("tril/CommonGen-v0", num_envs=2, autoreset_mode="Disabled", reward=None, max_episode_steps=2)
    envs = WholeText(envs)
    prompts, _ = envs.reset(seed=0)
    texts, _, terminated, truncated, _ = envs.step(["the dog runs", "a"])
    assert texts == (f"{prompts[0]} the dog", f"{prompts[1]} a")
    assert (terminated.tolist(), truncated.tolist()) == ([False, True], [True, True])


@pytest.mark.parametrize("make", [gym.make, functools.partial(gym.make_vec, num_envs=1, autoreset_mode="Disabled")])
def test_a_step_needs_a_reset_before(make):
    env = WholeText(make("tril/Toy-v0"))
    text = "w2" if isinstance(env, gym.Env) else ["w2"]
    with pytest.raises(ResetNeeded, match=r"call reset\(\)"):
        env.step(text)
    env.reset(seed=0)
    env.step(text)
    with pytest.raises(ResetNeeded, match=r"call reset\(\)"):
        env.step(text)


@pytest.mark.parametrize("mode", MODES)
def test_other_autoreset_modes_are_refused(mode):
    with pytest.raises(ValueError, match=f"autoreset_mode=\"Disabled\" .* got '{mode}'"):
        WholeText(gym.make_vec("tril/Toy-v0", num_envs=2, autoreset_mode=mode))


def test_bad_actions_are_refused():
    env = WholeText(common_gen())
    env.reset(seed=0)
    with pytest.raises(ValueError, match="an action is the completion as a string, got 5"):
        env.step(5)
    envs = WholeText(gym.make_vec("tril/Toy-v0", num_envs=2, autoreset_mode="Disabled"))
    envs.reset(seed=0)
    for actions in ("w5", ["w5"]):
        with pytest.raises(ValueError, match="actions must be 2 strings"):
            envs.step(actions)
    with pytest.raises(ValueError, match="leave reset_mask out"):
        envs.reset(options={"reset_mask": np.array([True, False])})


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_gymnasiums_vector_environments_are_refused_where_their_rows_end_apart(kind):
    def make():
        return gym.make("tril/Toy-v0")

    envs = kind([make, make], autoreset_mode="Disabled")
    with pytest.raises(ValueError, match=f"a {kind.__name__} cannot be stepped once a row has; use .* gym.make_vec"):
        WholeText(envs)
    envs.close()
    one = WholeText(SyncVectorEnv([make], autoreset_mode="Disabled"))
    one.reset(seed=0)
    assert one.step([" w5"])[2].tolist() == [True]
