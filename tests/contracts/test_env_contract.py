"""Every environment passes Gymnasium's checks and keeps the contract of one episode."""

import json

import gymnasium as gym
import numpy as np
import pytest
from contract_checks import CHEAP, EOS, EXAMPLES, IDS, TOKEN, bare, same, toy_envs
from gymnasium.error import ResetNeeded
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from tril_gym.data import Example
from tril_gym.envs.text_image import text_image
from tril_gym.envs.text_vector_env import TextVectorEnv
from tril_gym.envs.toy import toy_config
from tril_gym.testing import check_env


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("keywords", [{}, {"min_new_tokens": 3, "max_new_tokens": 5, "render_mode": "ansi"}])
def test_environments_conform(env_id, keywords):
    check_env(lambda: gym.make(env_id, **CHEAP[env_id] | keywords))
    check_env(lambda: gym.make(env_id, reward=None, **keywords).unwrapped)


@pytest.mark.parametrize("keywords", [{"rule": "stop"}, {"rule": "sparse"}, {"dense": True, "max_new_tokens": 2}])
def test_every_toy_conforms(keywords):
    check_env(lambda: gym.make("tril/Toy-v0", **keywords))


@pytest.mark.parametrize("env_id", IDS)
def test_spaces_and_metadata(env_id):
    env, envs = gym.make(env_id), gym.make_vec(env_id, num_envs=2)
    text = env.metadata["text"]
    assert json.loads(json.dumps(text)) == text, "plain data"
    size = text["max_prompt_length"] + text["max_new_tokens"]
    assert env.observation_space == gym.spaces.Box(-1, text["vocab_size"] - 1, (size,), np.int64)
    assert env.action_space == gym.spaces.Discrete(text["vocab_size"])
    assert envs.single_observation_space == env.observation_space
    assert envs.single_action_space == env.action_space
    assert text["eos_token_ids"] == [env.unwrapped.tokenizer.eos_token_id]
    assert text["num_examples"] == len(env.unwrapped.examples)
    assert text["restart"] == "single"
    assert envs.metadata["text"] == text | {"restart": "rows"}
    assert env.spec.max_episode_steps is None
    assert envs.reset(seed=0)[0] in envs.observation_space


def test_metadata_belongs_to_the_instance():
    env, other = bare("tril/Toy-v0"), bare("tril/Toy-v0", max_new_tokens=5)
    env.metadata["text"]["max_new_tokens"] = 99
    assert other.metadata["text"]["max_new_tokens"] == 5
    assert "text" not in type(env).metadata


# ---- one episode


def test_observation_columns_and_infos():
    env = bare("tril/Toy-v0")
    observation, info = env.reset(seed=0)
    prompt = [int(word[1:]) for word in info["prompt"].split()]
    padding = [-1] * (4 - len(prompt))
    assert observation.tolist() == padding + prompt + [-1] * 8
    assert set(info) == {"example", "prompt", "references", "extras"}
    assert type(info["example"]) is int
    assert type(info["references"]) is list
    begin = info
    observation, reward, terminated, truncated, info = env.step(7)
    assert observation.tolist() == padding + prompt + [7] + [-1] * 7
    assert (reward, terminated, truncated, info) == (0.0, False, False, {})
    observation, reward, terminated, truncated, info = env.step(np.int64(EOS))
    assert observation.tolist() == padding + prompt + [7, EOS] + [-1] * 6
    assert (terminated, truncated) == (True, False)
    end = {"completion": "w7", "tokens": [7, EOS], "finish_reason": "stop", "scores": {}}
    same(info, begin | end)


def test_length_limit_terminates_and_time_limit_truncates():
    env = bare("tril/Toy-v0", max_new_tokens=3)
    env.reset(seed=0)
    steps = [env.step(TOKEN) for _ in range(3)]
    assert [step[2] for step in steps] == [False, False, True]
    assert [step[3] for step in steps] == [False] * 3
    assert steps[-1][4]["finish_reason"] == "length"
    env = gym.wrappers.TimeLimit(bare("tril/Toy-v0", max_new_tokens=3), 2)
    env.reset(seed=0)
    env.step(TOKEN)
    _, _, terminated, truncated, info = env.step(TOKEN)
    assert (terminated, truncated) == (False, True)
    assert "completion" not in info, "a truncated text is not finished"


def test_eos_as_last_token_has_finish_reason_stop():
    env = bare("tril/Toy-v0", max_new_tokens=2)
    env.reset(seed=0)
    env.step(TOKEN)
    assert env.step(EOS)[4]["finish_reason"] == "stop"


def test_eos_before_the_minimum_still_ends_the_text():
    env = bare("tril/Toy-v0", min_new_tokens=2)
    env.reset(seed=0)
    advised = [env.action_masks()]
    env.step(TOKEN)
    advised.append(env.action_masks())
    assert [mask[EOS] for mask in advised] == [False, False]
    assert all(np.delete(mask, EOS).all() for mask in advised)
    assert env.step(EOS)[2], "EOS ends the text although it is not advised"
    env.reset(seed=0)
    env.step(TOKEN)
    env.step(TOKEN)
    assert env.action_masks()[EOS]


def test_ids_beyond_the_tokenizer_are_legal_and_decode_to_nothing():
    tokenizer = bare("tril/Toy-v0").tokenizer
    env = bare("tril/IMDB-v0", dataset=EXAMPLES, tokenizer=tokenizer, vocab_size=20)
    env.reset(seed=0)
    env.step(19)
    info = env.step(EOS)[4]
    assert (info["completion"], info["tokens"]) == ("", [19, EOS])
    with pytest.raises(ValueError, match="16 tokens, got 10"):
        bare("tril/IMDB-v0", dataset=EXAMPLES, tokenizer=tokenizer, vocab_size=10)


@pytest.mark.parametrize("action", [-1, 16, 2.5, None, [1, 2], 2**70])
def test_invalid_actions_are_refused(action):
    env = bare("tril/Toy-v0")
    before, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(action)
    assert env.step(TOKEN)[0].tolist() == [*before[:4].tolist(), TOKEN] + [-1] * 7, "nothing was written"


def test_step_needs_a_reset():
    env = bare("tril/Toy-v0", max_new_tokens=2)
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(TOKEN)
    env.reset(seed=0)
    env.step(EOS)
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(TOKEN)
    with pytest.raises(ResetNeeded, match="reset"):
        toy_envs().step([TOKEN] * 3)
    with pytest.raises(ResetNeeded, match="reset"):
        toy_envs().reset(options={"reset_mask": np.array([True, False, False])})


def test_changed_infos_do_not_change_the_environment():
    examples = [Example("w2", references=["w3"], extras={"concepts": ["w2"], "array": np.zeros(2)})]
    env = bare("tril/IMDB-v0", dataset=examples, tokenizer=bare("tril/Toy-v0").tokenizer)
    _, info = env.reset(seed=0)
    info["references"].append("x")
    info["extras"]["concepts"].append("x")
    info["extras"]["array"] += 1
    info = env.step(EOS)[4]
    assert info["references"] == ["w3"]
    assert info["extras"]["concepts"] == ["w2"]
    assert (info["extras"]["array"] == 0).all()


def test_rendering(capsys):
    env = bare("tril/Toy-v0", render_mode="ansi")
    with pytest.raises(ResetNeeded):
        env.render()
    _, info = env.reset(seed=0)
    assert env.render() == f"{info['prompt']}\n> …"
    env.step(TOKEN)
    assert env.render() == f"{info['prompt']}\n> w5…"
    env.step(EOS)
    assert env.render() == f"{info['prompt']}\n> w5 [stop]"
    assert capsys.readouterr().out == ""

    env = bare("tril/Toy-v0", render_mode="human")
    env.reset(seed=0)
    env.step(TOKEN)
    env.step(7)
    env.step(EOS)
    assert env.render() is None
    assert capsys.readouterr().out == f"{info['prompt']}\n> w5 w7 [stop]\n"

    env = gym.make("tril/CommonGen-v0", reward="rouge_l", render_mode="ansi")
    env.reset(seed=0)
    env.step(EOS)
    assert env.render().endswith(">  [stop] rouge_l 0")
    env.reset()
    assert "rouge_l" not in env.render()

    envs = TextVectorEnv(toy_config(), 2, render_mode="ansi")
    envs.reset(seed=0)
    envs.step([TOKEN, EOS])
    assert [frame.split("\n> ")[1] for frame in envs.render()] == ["w5…", " [stop]"]
    envs = TextVectorEnv(toy_config(), 1, render_mode="ansi", autoreset_mode="Disabled", max_episode_steps=1)
    envs.reset(seed=0)
    envs.step([TOKEN])
    assert envs.render()[0].endswith("w5…")
    envs = TextVectorEnv(toy_config(), 2, render_mode="human")
    envs.reset(seed=0)
    envs.step([TOKEN, EOS])
    assert capsys.readouterr().out.endswith(" [stop]\n")
    assert envs.render() == (None, None)
    with pytest.raises(TypeError, match="'rgb_array', got 'depth_array'"):
        bare("tril/Toy-v0", render_mode="depth_array")


def test_the_eos_of_the_tokenizer_comes_first_since_references_end_in_it():
    assert bare("tril/CommonGen-v0", eos_token_ids=[300, 0, 1]).metadata["text"]["eos_token_ids"] == [1, 0, 300]


def test_the_vocabulary_reaches_an_eos_beyond_a_gap_in_the_ids():
    inner = Tokenizer(WordLevel({"<pad>": 0, "a": 1, "<eos>": 7}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")
    env = bare("tril/Text-v0", dataset=[{"prompt": "a"}], tokenizer=tokenizer, max_prompt_length=2, max_new_tokens=2)
    env.reset(seed=0)
    assert env.step(env.action_space.n - 1)[4]["finish_reason"] == "stop"


def test_a_character_of_several_tokens_is_printed_once_it_is_whole(capsys):
    env = gym.make("tril/CommonGen-v0", reward=None, render_mode="human")
    _, info = env.reset(seed=0)
    for token in [*env.unwrapped.tokenizer(" 🐕!")["input_ids"], 1]:
        env.step(token)
    assert capsys.readouterr().out == f"{info['prompt']}\n>  🐕! [stop]\n"


def test_frames_are_images_of_the_text():
    env = gym.make("tril/Toy-v0", render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(TOKEN)
    assert before.shape == env.render().shape == (360, 640, 3)
    assert before.dtype == np.uint8
    assert not np.array_equal(before, env.render())
    envs = gym.make_vec("tril/Toy-v0", num_envs=2, render_mode="rgb_array")
    envs.reset(seed=[0, 1])
    assert np.array_equal(envs.render()[0], before)


def test_an_image_has_the_last_lines_of_a_long_text():
    long = "\n".join(f"line {number}" for number in range(40))
    assert np.array_equal(text_image(long), text_image(long.partition("line 20\n")[2]))
    assert not np.array_equal(text_image(long), text_image(long.replace("39", "38")))


def test_render_without_a_mode_warns():
    env, envs = bare("tril/Toy-v0"), toy_envs()
    env.reset(seed=0)
    envs.reset(seed=0)
    for each in (env, envs):
        with pytest.warns(UserWarning, match="render mode"):
            assert each.render() is None
