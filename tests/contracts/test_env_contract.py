"""Every environment keeps Gymnasium's contract and ours."""

import copy
import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
from contract_checks import (
    CHEAP,
    IDS,
    REAL_DATA,
    bare,
    native_and_sync,
    random_actions,
    rng_states,
    same,
    same_steps,
)
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from tril_gym.data import Example
from tril_gym.envs.text_vector_env import TextVectorEnv
from tril_gym.envs.toy import toy_config
from tril_gym.registration import make_text_vector_env
from tril_gym.wrappers.reward_term import terms

MODES = ["NextStep", "SameStep", "Disabled"]
EXAMPLES = [Example("w2 w3", references=["w4"], label=1), Example("w5", references=["w6", "w7"])]

EXAMPLE, TOKEN, EOS, N = 3, 5, 1, 3


def toy_envs(mode="Disabled", n=N, **keywords):
    return TextVectorEnv(toy_config(**keywords), n, autoreset_mode=mode)


# ---- Gymnasium's own checks


@pytest.mark.parametrize("env_id", IDS)
def test_check_env_unwrapped(env_id):
    check_env(gym.make(env_id, render_mode="ansi", reward=None).unwrapped)


@pytest.mark.parametrize("env_id", IDS)
def test_check_env_whole(env_id, capsys):
    env = gym.make(env_id, render_mode="ansi", **CHEAP[env_id])
    with warnings.catch_warnings():
        # the one thing it says of every wrapped environment
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version.*")
        check_env(env)


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


@pytest.mark.parametrize("env_id", IDS)
def test_same_seed_same_episode(env_id):
    def episode(seed):
        env = gym.make(env_id, reward=None)
        env.action_space.seed(0)
        log = [env.reset(seed=seed)]
        for _ in range(5):
            log.append(env.step(env.action_space.sample()))
            if log[-1][2]:
                break
        return log

    same(episode(3), episode(3))
    with pytest.raises(AssertionError):
        same(episode(3), episode(4))


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


def test_length_terminates_and_truncation_is_for_others():
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
    assert "completion" not in info, "a text that others cut short is not finished"


def test_eos_at_the_last_place_is_a_stop():
    env = bare("tril/Toy-v0", max_new_tokens=2)
    env.reset(seed=0)
    env.step(TOKEN)
    assert env.step(EOS)[4]["finish_reason"] == "stop"


def test_minimum_is_advice():
    env = bare("tril/Toy-v0", min_new_tokens=2)
    env.reset(seed=0)
    advised = [env.action_masks()]
    env.step(TOKEN)
    advised.append(env.action_masks())
    assert [mask[EOS] for mask in advised] == [False, False]
    assert all(np.delete(mask, EOS).all() for mask in advised)
    assert env.step(EOS)[2], "against the advice, but it ends the text"
    env.reset(seed=0)
    env.step(TOKEN)
    env.step(TOKEN)
    assert env.action_masks()[EOS]


def test_ids_beyond_the_tokenizer_are_legal_and_say_nothing():
    tokenizer = bare("tril/Toy-v0").tokenizer
    env = bare("tril/IMDB-v0", dataset=EXAMPLES, tokenizer=tokenizer, vocab_size=20)
    env.reset(seed=0)
    env.step(19)
    info = env.step(EOS)[4]
    assert (info["completion"], info["tokens"]) == ("", [19, EOS])
    with pytest.raises(ValueError, match="16 tokens, got 10"):
        bare("tril/IMDB-v0", dataset=EXAMPLES, tokenizer=tokenizer, vocab_size=10)


@pytest.mark.parametrize("action", [-1, 16, 2.5, None, [1, 2], 2**70])
def test_what_is_no_action(action):
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
        toy_envs().step([TOKEN] * N)
    with pytest.raises(ResetNeeded, match="reset"):
        toy_envs().reset(options={"reset_mask": np.array([True, False, False])})


def test_infos_are_the_callers_to_change():
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
    envs = TextVectorEnv(toy_config(), 2, render_mode="human")
    envs.reset(seed=0)
    envs.step([TOKEN, EOS])
    assert capsys.readouterr().out.endswith(" [stop]\n")
    assert envs.render() == (None, None)
    with pytest.raises(ValueError, match="rgb_array"):
        bare("tril/Toy-v0", render_mode="rgb_array")


def test_render_without_a_mode_warns():
    env, envs = bare("tril/Toy-v0"), toy_envs()
    env.reset(seed=0)
    envs.reset(seed=0)
    for each in (env, envs):
        with pytest.warns(UserWarning, match="render mode"):
            assert each.render() is None


# ---- the vector environment is Gymnasium's over single ones


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", IDS)
def test_vector_equals_sync(env_id, mode):
    native, sync = native_and_sync(env_id, 3, mode, **CHEAP[env_id])
    ended = same_steps(native, sync, steps=60, seed=0, eos_prob=0.2)
    assert ended > 20


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("seed", "rule", "dense"), [(0, "count", True), (7, "stop", False), ([5, None, 5, 9], "sparse", False)]
)
def test_vector_equals_sync_for_a_thousand_steps(mode, seed, rule, dense):
    native, sync = native_and_sync("tril/Toy-v0", 4, mode, rule=rule, dense=dense, min_new_tokens=3)
    native.reset(seed=1), sync.reset(seed=1)  # so that a None in the list leaves a known generator
    ended = same_steps(native, sync, steps=1000, seed=seed, eos_prob=0.1)
    assert ended > 500
    same(native.action_masks(), np.stack(sync.call("action_masks")))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("env_id", "folder"),
    [("tril/IMDB-v0", "imdb"), ("tril/CommonGen-v0", "commongen"), ("tril/TLDR-v0", "tldr")],
)
def test_vector_equals_sync_on_real_data(env_id, folder, mode):
    if not (REAL_DATA / folder).is_dir():
        pytest.skip(f"no real data in {REAL_DATA / folder}")
    native, sync = native_and_sync(
        env_id, 3, mode, reward="rouge_l", dataset=str(REAL_DATA / folder), split="validation"
    )
    assert same_steps(native, sync, steps=100, seed=2, eos_prob=0.2) > 30


def test_vector_equals_sync_with_other_infos():
    """Labels and extras that only some examples have, and arrays."""
    examples = [*EXAMPLES, Example("w9", extras={"array": np.arange(2), "number": 2.5, "nested": {"a": 1}})]
    keywords = {"dataset": examples, "tokenizer": bare("tril/Toy-v0").tokenizer, "reward": None}
    for mode in MODES:
        native, sync = native_and_sync("tril/IMDB-v0", 4, mode, **keywords)
        same_steps(native, sync, steps=100, seed=0, eos_prob=0.4)


def test_the_comparison_can_fail():
    """Vector environments that are broken on purpose, one way each."""

    def late_flag(result):
        return (*result[:2], np.zeros_like(result[2]), *result[3:])

    def wrong_mask(result):
        for key, value in result[4].items():
            if key == "_references":
                value[:] = True
        return result

    def reward_of_neighbour(result):
        return (result[0], np.roll(result[1], 1), *result[2:])

    def float_observation(result):
        return (result[0].astype(np.int32), *result[1:])

    def lost_key(result):
        result[4].pop("tokens", None)
        return result

    for break_it in (late_flag, wrong_mask, reward_of_neighbour, float_observation, lost_key):
        native, sync = native_and_sync("tril/Toy-v0", 3, "NextStep", dense=True)
        whole = native.step
        native.step = lambda actions, whole=whole, break_it=break_it: break_it(whole(actions))
        with pytest.raises(AssertionError):
            same_steps(native, sync, steps=100, seed=0)


@pytest.mark.parametrize("mode", MODES)
def test_generators_equal_syncs(mode):
    native, sync = native_and_sync("tril/Toy-v0", 3, mode)
    native.reset(seed=5), sync.reset(seed=5)
    assert native.np_random_seed == sync.np_random_seed == (5, 6, 7)
    assert rng_states(native) == rng_states(sync)
    native.reset(), sync.reset()
    assert rng_states(native) == rng_states(sync)


def test_unseeded_rows_seed_themselves():
    envs = toy_envs()
    assert isinstance(envs.np_random, tuple)
    assert len(set(envs.np_random_seed)) == N


def test_global_generators_are_left_alone():
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    envs = toy_envs("NextStep")
    envs.reset(seed=0)
    for _ in range(20):
        envs.step([TOKEN] * N)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_seeds_that_will_not_do():
    envs = toy_envs()
    envs.reset(seed=0)
    before = rng_states(envs)
    with pytest.raises(ValueError, match="one per environment, 3, got 2"):
        envs.reset(seed=[1, 2])
    with pytest.raises(gym.error.Error):
        envs.reset(seed=[1, 2, -1])
    assert rng_states(envs) == before, "nothing was seeded"


@pytest.mark.parametrize("actions", [[1, 2], [[1], [2], [3]], [1.0, 2.0, 3.0], 1])
def test_actions_of_another_shape(actions):
    envs = toy_envs()
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"token ids of shape \(3,\)"):
        envs.step(actions)


@pytest.mark.parametrize("bad", [-1, 16])
def test_a_bad_action_changes_nothing(bad):
    envs = toy_envs()
    before, _ = envs.reset(seed=0)
    with pytest.raises(ValueError, match=f"action {bad} is no token id"):
        envs.step([TOKEN, bad, TOKEN])
    with pytest.raises(ValueError, match="action -1"):
        envs.step([-1, -1, -1])
    assert (envs.step([TOKEN] * N)[0][:, 5:] == before[:, 5:]).all()


def test_copy():
    for copy_, is_shared in ((True, False), (False, True)):
        envs = TextVectorEnv(toy_config(), 2, copy=copy_)
        first, _ = envs.reset(seed=0)
        assert np.shares_memory(first, envs.step([TOKEN, TOKEN])[0]) == is_shared


def test_attributes_by_row():
    envs, sync = native_and_sync("tril/Toy-v0", 2, "NextStep", min_new_tokens=1)
    envs.reset(seed=0), sync.reset(seed=0)
    same(envs.call("action_masks"), sync.call("action_masks"))
    assert envs.get_attr("np_random_seed") == sync.get_attr("np_random_seed") == (0, 1)
    assert all(a is b for a, b in zip(envs.get_attr("examples"), sync.get_attr("examples"), strict=True))
    # Gymnasium's would call it, as a tokenizer can be called
    assert all(tokenizer is envs.tokenizer for tokenizer in envs.get_attr("tokenizer"))
    assert envs.call("train_examples") == sync.call("train_examples")
    assert envs.get_attr("action_space") == sync.get_attr("action_space")
    with pytest.raises(AttributeError):
        envs.get_attr("nonsense")


# ---- autoreset


def test_autoreset_mode_by_name_and_value():
    for mode in AutoresetMode:
        for given in (mode, mode.value):
            envs = gym.make_vec("tril/CommonGen-v0", num_envs=2, autoreset_mode=given, reward="rouge_l")
            assert envs.metadata["autoreset_mode"] is envs.autoreset_mode is envs.unwrapped.autoreset_mode is mode
    with pytest.raises(ValueError, match="'Never'"):
        toy_envs("Never")


def test_idle_rows():
    envs = toy_envs("Disabled", dense=True)
    envs.reset(seed=0)
    first = envs.step([EOS, TOKEN, TOKEN])
    assert first[2].tolist() == [True, False, False]
    # an idle row's action is not read, whatever it is
    second = envs.step([-1, TOKEN, TOKEN])
    assert second[0][0].tolist() == first[0][0].tolist(), "the observation stays"
    assert (second[1][0], second[2][0], second[3][0], second[4]) == (0.0, False, False, {})
    assert second[1][1:].tolist() == [1 / 8, 1 / 8], "the others go on"
    third = envs.step([99, EOS, EOS])
    assert third[2].tolist() == [False, True, True]
    assert third[4]["_completion"].tolist() == [False, True, True]
    last = envs.step([99, 99, 99])
    assert last[2].tolist() == [False] * 3
    assert last[4] == {}
    same(last[0], third[0])
    fresh, infos = envs.reset(options={"reset_mask": np.array([True, False, False])})
    assert (fresh[0, 4:] == -1).all()
    assert infos["_prompt"].tolist() == [True, False, False]
    same(fresh[1:], third[0][1:])


def test_reset_mask():
    envs, options = toy_envs("Disabled"), {"reset_mask": np.array([False, True, False])}
    envs.reset(seed=0)
    written, *_ = envs.step([TOKEN] * N)
    states = rng_states(envs)
    observations, infos = envs.reset(seed=4, options=options)
    assert list(options) == ["reset_mask"], "it stays in the caller's dictionary"
    same(observations[[0, 2]], written[[0, 2]])
    assert infos["_example"].tolist() == [False, True, False]
    assert envs.np_random_seed == (0, 5, 2), "row i of the masked has the seed s + i"
    assert [a == b for a, b in zip(states, rng_states(envs), strict=True)] == [True, False, True]


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ([True, False, False], TypeError, "numpy array"),
        (np.array([True, False]), ValueError, "shape"),
        (np.array([1, 0, 0]), TypeError, "dtype"),
        (np.zeros(3, bool), ValueError, "at least one"),
    ],
)
def test_reset_masks_that_will_not_do(mask, error, message):
    envs = toy_envs()
    envs.reset(seed=0)
    with pytest.raises(error, match=message):
        envs.reset(options={"reset_mask": mask})


@pytest.mark.parametrize("mode", MODES)
def test_episode_statistics(mode):
    """Gymnasium's wrapper counts every token and no idle or resetting step."""
    if mode == "SameStep" and tuple(map(int, gym.__version__.split(".")[:2])) < (1, 4):
        pytest.skip("this gymnasium's RecordEpisodeStatistics loses the first step after a SAME_STEP reset")
    problem = toy_config(dense=True, max_new_tokens=5)
    envs = RecordEpisodeStatistics(TextVectorEnv(problem, 2, autoreset_mode=mode))
    lengths, returns = [[], []], [[], []]
    own_length, own_return = [0, 0], [0.0, 0.0]
    rng = np.random.default_rng(0)
    envs.reset(seed=0)
    resetting = [False, False]
    for _ in range(200):
        _, rewards, terminated, _, infos = envs.step(random_actions(rng, envs, 0.2))
        for row in range(2):
            if resetting[row]:
                resetting[row] = False
                continue
            own_length[row] += 1
            own_return[row] += rewards[row]
            if terminated[row]:
                lengths[row].append(own_length[row])
                returns[row].append(own_return[row])
                assert infos["episode"]["l"][row] == own_length[row] <= 5
                assert infos["episode"]["r"][row] == pytest.approx(own_return[row])
                own_length[row], own_return[row] = 0, 0.0
                resetting[row] = mode == "NextStep"
        if mode == "Disabled" and terminated.any():
            envs.reset(options={"reset_mask": terminated.copy()})
    assert len(lengths[0]) + len(lengths[1]) == envs.episode_count > 60
    assert len({*lengths[0], *lengths[1]}) > 2


def test_episode_statistics_of_a_batch_written_to_its_end():
    envs = RecordEpisodeStatistics(toy_envs("Disabled", dense=True, max_new_tokens=4))
    envs.reset(seed=0)
    envs.step([EOS, TOKEN, TOKEN])
    envs.step([TOKEN, EOS, TOKEN])
    envs.step([TOKEN, TOKEN, TOKEN])
    envs.step([TOKEN, TOKEN, TOKEN])
    assert list(envs.length_queue) == [1, 2, 4]
    assert list(envs.return_queue) == [0.0, 0.25, 1.0]
    envs.reset(options={"reset_mask": np.array([True, True, False])})
    envs.step([EOS, TOKEN, TOKEN])
    assert list(envs.length_queue)[3:] == [1]


# ---- restart anywhere


def test_single_restart():
    env = bare("tril/Toy-v0")
    env.reset(seed=0)
    state = env.np_random.bit_generator.state
    observation, info = env.reset(options={"example": EXAMPLE, "completion": np.array([7, 8])})
    assert env.np_random.bit_generator.state == state, "nothing was drawn"
    assert observation[4:].tolist() == [7, 8] + [-1] * 6
    plain, plain_info = env.reset(options={"example": EXAMPLE})
    same(info, plain_info)
    assert (plain[4:] == -1).all()
    env.reset(options={"example": EXAMPLE, "completion": [7, 8]})
    for _ in range(5):
        assert not env.step(TOKEN)[2]
    assert env.step(TOKEN)[4]["tokens"] == [7, 8] + [TOKEN] * 6, "the length counts from the text's beginning"


def test_restart_stands_where_steps_lead():
    """A restart and the same tokens as steps are the same state: observation, masks, and all that follows."""
    stepped, restarted = bare("tril/Toy-v0", min_new_tokens=4), bare("tril/Toy-v0", min_new_tokens=4)
    _, info = stepped.reset(seed=0)
    for token in (7, 8, 9):
        observation, *_ = stepped.step(token)
    same(restarted.reset(seed=9, options={"example": info["example"], "completion": [7, 8, 9]})[0], observation)
    same(restarted.action_masks(), stepped.action_masks())
    for token in (4, 5, EOS):
        same(restarted.step(token), stepped.step(token))


def test_draw_in_a_restart():
    env, other = bare("tril/Toy-v0"), bare("tril/Toy-v0")
    same(env.reset(seed=0, options={"example": -1}), other.reset(seed=0))
    envs, others = toy_envs(), toy_envs()
    drawn, _ = envs.reset(seed=0, options={"example": np.array([-1, EXAMPLE, -1])})
    plain, _ = others.reset(seed=0)
    same(drawn[[0, 2]], plain[[0, 2]])
    assert [a == b for a, b in zip(rng_states(envs), rng_states(others), strict=True)] == [True, False, True]


def test_vector_restart():
    envs = toy_envs()
    completions = np.full((N, 8), -1)
    completions[0, :2], completions[2, :7] = [7, 8], 9
    states = None
    envs.reset(seed=0)
    states = rng_states(envs)
    observations, infos = envs.reset(options={"example": np.array([4, 5, 4]), "completion": completions})
    assert rng_states(envs) == states
    same(observations[:, 4:], completions)
    assert infos["example"].tolist() == [4, 5, 4]
    result = envs.step([TOKEN] * N)
    assert result[2].tolist() == [False, False, True]
    assert result[4]["tokens"][2] == [9] * 7 + [TOKEN]
    # what rows outside the mask hold is not read
    completions[1:] = EOS
    observations, infos = envs.reset(
        options={
            "example": np.array([4, 999, -5]),
            "completion": completions,
            "reset_mask": np.array([True, False, False]),
        }
    )
    assert infos["_example"].tolist() == [True, False, False]
    same(observations[0, 4:], completions[0])
    assert observations[1, 4] == TOKEN


BAD_RESTARTS = [
    ({"completion": [7]}, "needs options\\['example'\\]"),
    ({"example": 64}, "0 … 63, or -1 to draw one, got 64"),
    ({"example": -2}, "got -2"),
    ({"example": 1.0}, "integers"),
    ({"example": 1, "completion": [7] * 8}, "at most 7 tokens.*got 8"),
    ({"example": 1, "completion": [7, EOS]}, "EOS"),
    ({"example": 1, "completion": [7, 16]}, "token 16"),
    ({"example": 1, "completion": [7, -2]}, "token -2"),
    ({"example": 1, "completion": [-1, 7]}, "only after its last token"),
    ({"example": 1, "completion": [7.5]}, "integers"),
    ({"example": -1, "completion": [7]}, "name the example"),
]


@pytest.mark.parametrize(("options", "message"), BAD_RESTARTS)
def test_restarts_that_will_not_do(options, message):
    env = bare("tril/Toy-v0")
    before, _ = env.reset(seed=0)
    state = env.np_random.bit_generator.state
    with pytest.raises(ValueError, match=message):
        env.reset(seed=1, options=options)
    assert env.np_random.bit_generator.state == state
    assert env.step(TOKEN)[0][:4].tolist() == before[:4].tolist(), "the text goes on"


@pytest.mark.parametrize(("options", "message"), BAD_RESTARTS)
def test_vector_restarts_that_will_not_do(options, message):
    envs = toy_envs()
    envs.reset(seed=0)
    states = rng_states(envs)
    rows = {"example": np.array([1, options["example"], 1])} if "example" in options else {}
    if "completion" in options:
        completion = np.array(options["completion"])
        rows["completion"] = np.full((N, 8), -1, dtype=completion.dtype)
        rows["completion"][1, : len(completion)] = completion
    with pytest.raises(ValueError, match=message) as error:
        envs.reset(seed=1, options=rows)
    assert rng_states(envs) == states
    if "got" in message or "token" in message:
        assert "row 1" in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"example": 1}, r"\(3,\), got \(\)"),
        ({"example": [1, 2]}, r"\(3,\), got \(2,\)"),
        ({"example": [1, 2, 3], "completion": [1, 2, 3]}, r"shape \(3, 8\)"),
        ({"example": [1, 2, 3], "completion": [[7], [7, 8], []]}, "pad with -1"),
    ],
)
def test_vector_restarts_of_another_shape(options, message):
    envs = toy_envs()
    with pytest.raises(ValueError, match=message):
        envs.reset(seed=0, options=options)
    with pytest.raises(ValueError, match="one index"):
        bare("tril/Toy-v0").reset(options={"example": [1, 2]})


# ---- keywords and specifications


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
        ({"reward": {"rouge_l": float("nan")}}, "finite"),
        ({"reward": 3}, "got 3"),
        ({"reward_settings": {"cider_d": {}}}, "cider_d"),
        ({"reward": "rouge_l", "fitted_rewards": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_keywords_that_will_not_do(keywords, message):
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
def test_plain_specs_go_through_json(env_id):
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


def test_specs_with_objects_are_copied_without_copying_them():
    tokenizer = bare("tril/Toy-v0").tokenizer

    def my_reward(prompts, completions, references, extras):
        return np.ones(len(prompts))

    keywords = {"dataset": EXAMPLES, "tokenizer": tokenizer, "reward": {"mine": my_reward}}
    env = gym.make("tril/IMDB-v0", **keywords)
    again = gym.make(copy.deepcopy(env.spec))
    assert again.unwrapped.tokenizer is tokenizer
    assert again.unwrapped.examples is env.unwrapped.examples
    assert again.unwrapped.examples[0] is EXAMPLES[0]
    assert terms(again)[0].score.function is my_reward
    envs = gym.make_vec("tril/IMDB-v0", num_envs=2, **keywords)
    again = gym.make_vec(copy.deepcopy(envs.spec))
    assert again.unwrapped.tokenizer is tokenizer
    assert again.unwrapped.examples is env.unwrapped.examples
    again = gym.make_vec("tril/IMDB-v0", num_envs=2, vectorization_mode="sync", **keywords)
    assert all(examples is env.unwrapped.examples for examples in again.get_attr("examples"))


def test_environments_of_a_process_share_their_data():
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
