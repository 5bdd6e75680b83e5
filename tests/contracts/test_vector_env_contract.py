"""The native vector environment equals `SyncVectorEnv` over single ones."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from contract_checks import (
    CHEAP,
    EOS,
    EXAMPLES,
    IDS,
    MODES,
    REAL_DATA,
    TOKEN,
    bare,
    native_and_sync,
    rng_states,
    same,
    toy_envs,
)
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from tril_gym.data import Example
from tril_gym.envs.text_vector_env import TextVectorEnv
from tril_gym.envs.toy import toy_config
from tril_gym.testing import check_vector_env
from tril_gym.testing.vector_steps import equal_steps, random_actions

# ---- equality with SyncVectorEnv


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", IDS)
def test_vector_environments_conform(env_id, mode):
    check_vector_env(
        partial(gym.make_vec, env_id, **CHEAP[env_id]), partial(gym.make, env_id, **CHEAP[env_id]), modes=[mode]
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("seed", "rule", "dense"),
    [
        ([5, None, 5, 9], "sparse", False),
        pytest.param(0, "count", True, marks=pytest.mark.slow),
        pytest.param(7, "stop", False, marks=pytest.mark.slow),
    ],
)
def test_vector_equals_sync_for_a_thousand_steps(mode, seed, rule, dense):
    native, sync = native_and_sync("tril/Toy-v0", 4, mode, rule=rule, dense=dense, min_new_tokens=3)
    native.reset(seed=1), sync.reset(seed=1)  # None in the list below keeps this generator
    ended = equal_steps(native, sync, steps=1000, seed=seed, eos_prob=0.1)
    assert ended > 500
    same(native.action_masks(), np.stack(sync.call("action_masks")))


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize("limit", [1, 3, 8])  # 8 is T: the last token also ends the text
def test_a_time_limit_equals_gymnasiums(mode, limit):
    native = gym.make_vec("tril/Toy-v0", num_envs=3, autoreset_mode=mode, max_episode_steps=limit)
    sync = SyncVectorEnv([lambda: gym.make("tril/Toy-v0", max_episode_steps=limit)] * 3, autoreset_mode=mode)
    assert equal_steps(native, sync, steps=60, seed=0, eos_prob=0.2) > 20


def test_a_row_at_the_time_limit_is_idle_where_nothing_resets_it():
    envs = gym.make_vec("tril/Toy-v0", num_envs=2, autoreset_mode="Disabled", max_episode_steps=2, reward="rouge_l")
    envs.reset(seed=0)
    steps = [envs.step([TOKEN, TOKEN]) for _ in range(3)]
    assert [step[3].tolist() for step in steps] == [[False] * 2, [True] * 2, [False] * 2]
    assert not any(step[2].any() for step in steps)
    assert all(step[4] == {} for step in steps)
    assert np.array_equal(steps[1][0], steps[2][0])
    with pytest.raises(ValueError, match="max_episode_steps"):
        gym.make_vec("tril/Toy-v0", num_envs=2, max_episode_steps=0)


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
    assert equal_steps(native, sync, steps=100, seed=2, eos_prob=0.2) > 30


def test_labels_arrays_and_nested_extras_conform():
    """Only some examples have labels and extras; arrays are among them."""
    examples = [*EXAMPLES, Example("w9", extras={"array": np.arange(2), "number": 2.5, "nested": {"a": 1}})]
    keywords = {"dataset": examples, "tokenizer": bare("tril/Toy-v0").tokenizer}
    check_vector_env(
        partial(gym.make_vec, "tril/IMDB-v0", reward=None, **keywords), partial(bare, "tril/IMDB-v0", **keywords)
    )


@pytest.mark.parametrize("mode", MODES)
def test_generators_equal_those_of_sync(mode):
    native, sync = native_and_sync("tril/Toy-v0", 3, mode)
    native.reset(seed=5), sync.reset(seed=5)
    assert native.np_random_seed == sync.np_random_seed == (5, 6, 7)
    assert rng_states(native) == rng_states(sync)
    native.reset(), sync.reset()
    assert rng_states(native) == rng_states(sync)


def test_unseeded_rows_get_different_seeds():
    envs = toy_envs()
    assert isinstance(envs.np_random, tuple)
    assert len(set(envs.np_random_seed)) == 3


def test_invalid_seeds_change_nothing():
    envs = toy_envs()
    envs.reset(seed=0)
    before = rng_states(envs)
    with pytest.raises(ValueError, match="one per environment, 3, got 2"):
        envs.reset(seed=[1, 2])
    with pytest.raises(gym.error.Error):
        envs.reset(seed=[1, 2, -1])
    assert rng_states(envs) == before, "nothing was seeded"


@pytest.mark.parametrize("actions", [[1, 2], [[1], [2], [3]], [1.0, 2.0, 3.0], 1])
def test_actions_of_another_shape_are_refused(actions):
    envs = toy_envs()
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"token ids of shape \(3,\)"):
        envs.step(actions)


@pytest.mark.parametrize("bad", [-1, 16])
def test_an_action_out_of_range_changes_nothing(bad):
    envs = toy_envs()
    before, _ = envs.reset(seed=0)
    with pytest.raises(ValueError, match=f"action {bad} is no token id"):
        envs.step([TOKEN, bad, TOKEN])
    with pytest.raises(ValueError, match="action -1"):
        envs.step([-1, -1, -1])
    assert (envs.step([TOKEN] * 3)[0][:, 5:] == before[:, 5:]).all()


def test_copy_decides_whether_observations_share_memory():
    for copy_, is_shared in ((True, False), (False, True)):
        envs = TextVectorEnv(toy_config(), 2, copy=copy_)
        first, _ = envs.reset(seed=0)
        assert np.shares_memory(first, envs.step([TOKEN, TOKEN])[0]) == is_shared
    with pytest.raises(ValueError, match="copy must be True or False, got 'no'"):
        TextVectorEnv(toy_config(), 2, copy="no")


def test_call_and_get_attr_equal_those_of_sync():
    envs, sync = native_and_sync("tril/Toy-v0", 2, "NextStep", min_new_tokens=1)
    envs.reset(seed=0), sync.reset(seed=0)
    same(envs.call("action_masks"), sync.call("action_masks"))
    assert envs.get_attr("np_random_seed") == sync.get_attr("np_random_seed") == (0, 1)
    assert all(a is b for a, b in zip(envs.get_attr("examples"), sync.get_attr("examples"), strict=True))
    # SyncVectorEnv would call it, since a tokenizer is callable
    assert all(tokenizer is envs.tokenizer for tokenizer in envs.get_attr("tokenizer"))
    assert envs.call("train_examples") == sync.call("train_examples")
    assert envs.get_attr("action_space") == sync.get_attr("action_space")
    with pytest.raises(AttributeError):
        envs.get_attr("nonsense")


# ---- autoreset


def test_autoreset_mode_by_enum_and_by_string():
    for mode in AutoresetMode:
        for given in (mode, mode.value):
            envs = gym.make_vec("tril/CommonGen-v0", num_envs=2, autoreset_mode=given, reward="rouge_l")
            assert envs.metadata["autoreset_mode"] is envs.autoreset_mode is envs.unwrapped.autoreset_mode is mode
    with pytest.raises(ValueError, match="'Never'"):
        toy_envs("Never")


def test_ended_rows_are_idle_in_mode_disabled():
    envs = toy_envs("Disabled", dense=True)
    envs.reset(seed=0)
    first = envs.step([EOS, TOKEN, TOKEN])
    assert first[2].tolist() == [True, False, False]
    # the action of an idle row is not read
    second = envs.step([-1, TOKEN, TOKEN])
    assert second[0][0].tolist() == first[0][0].tolist(), "the observation does not change"
    assert (second[1][0], second[2][0], second[3][0], second[4]) == (0.0, False, False, {})
    assert second[1][1:].tolist() == [1 / 8, 1 / 8], "the other rows continue"
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


def test_reset_mask_resets_only_masked_rows():
    envs, options = toy_envs("Disabled"), {"reset_mask": np.array([False, True, False])}
    envs.reset(seed=0)
    written, *_ = envs.step([TOKEN] * 3)
    states = rng_states(envs)
    observations, infos = envs.reset(seed=4, options=options)
    assert list(options) == ["reset_mask"], "the caller's dictionary is not changed"
    same(observations[[0, 2]], written[[0, 2]])
    assert infos["_example"].tolist() == [False, True, False]
    assert envs.np_random_seed == (0, 5, 2), "masked row i gets the seed s + i"
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
def test_invalid_reset_masks_are_refused(mask, error, message):
    envs = toy_envs()
    envs.reset(seed=0)
    with pytest.raises(error, match=message):
        envs.reset(options={"reset_mask": mask})


@pytest.mark.parametrize("mode", MODES)
def test_episode_statistics(mode):
    """Gymnasium's wrapper counts every token, but no step that is idle or only resets."""
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


def test_episode_statistics_in_mode_disabled():
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
