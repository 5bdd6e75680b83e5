"""Stable-Baselines3 learns in the environments: through its own front door, and in the native vector environment."""

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import tril_gym  # noqa: F401 - registers the environments
from tril_gym.bridges import StableBaselinesVecEnv

TOKEN, EOS = 5, 1


def native(n=3, **keywords):
    return StableBaselinesVecEnv(gym.make_vec("tril/Toy-v0", num_envs=n, autoreset_mode="SameStep", **keywords))


class GoodWords:
    """Writes a word of the good set in every step."""

    def predict(self, observations, **keywords):
        return np.full(len(observations), TOKEN), None


def test_it_equals_their_vector_environment_over_single_ones():
    """Some texts are truncated, and some are left by a reset."""
    settings = {"dense": True, "max_episode_steps": 6}
    ours, theirs = native(**settings), DummyVecEnv([lambda: Monitor(gym.make("tril/Toy-v0", **settings))] * 3)
    ours.seed(4), theirs.seed(4)
    rng, ended, truncated = np.random.default_rng(0), 0, 0
    for number in range(60):
        if number % 20 == 0:
            assert np.array_equal(ours.reset(), theirs.reset())
        actions = rng.integers(16, size=3)
        mine, other = ours.step(actions), theirs.step(actions)
        for a, b in zip(mine[:3], other[:3], strict=True):
            assert np.array_equal(a, b)
            assert a.dtype == b.dtype
        for a, b in zip(mine[3], other[3], strict=True):
            assert a.get("completion") == b.get("completion")
            assert a.get("TimeLimit.truncated", False) == b["TimeLimit.truncated"]
            truncated += b["TimeLimit.truncated"]
            if "terminal_observation" in b:
                ended += 1
                assert a["episode"] == {"r": pytest.approx(b["episode"]["r"], abs=1e-6), "l": b["episode"]["l"]}
                assert np.array_equal(a["terminal_observation"], b["terminal_observation"])
        assert [info["example"] for info in ours.reset_infos] == [info["example"] for info in theirs.reset_infos]
    assert ended - truncated > 10 < truncated


def test_returns_and_lengths_of_texts_are_in_their_infos():
    envs = native(n=2, dense=True)
    envs.reset()
    rewards = [envs.step(np.array([TOKEN, TOKEN]))[1] for _ in range(2)]
    *last, infos = envs.step(np.array([EOS, TOKEN]))
    assert infos[0]["episode"] == {"r": pytest.approx(sum(r[0] for r in rewards) + last[1][0]), "l": 3}
    assert "episode" not in infos[1]


def test_options_are_those_of_the_next_reset():
    ours, theirs = native(), DummyVecEnv([lambda: gym.make("tril/Toy-v0")] * 3)
    for options in ({"example": 3}, [{"example": 3}, {}, {"example": 5, "completion": [TOKEN, TOKEN]}], None):
        ours.seed(4), theirs.seed(4)
        ours.set_options(options), theirs.set_options(options)
        assert np.array_equal(ours.reset(), theirs.reset())
    ours.set_options({"example": 3})
    ours.reset()
    assert {tuple(ours.reset()[row]) for _ in range(3) for row in range(3)} != {tuple(ours.reset()[0])}  # they are gone


def test_a_misspelled_option_is_refused():
    envs = native()
    envs.set_options({"exmaple": 3})
    with pytest.raises(ValueError, match=r"options\['exmaple'\] would be ignored .did you mean 'example'"):
        envs.reset()


def test_an_evaluation_has_the_rewards_of_the_environment():
    """As around a `Monitor`, not those that `VecNormalize` makes of them, and without a warning."""
    envs = VecNormalize(native(), norm_obs=False)
    returns, lengths = evaluate_policy(GoodWords(), envs, n_eval_episodes=4, return_episode_rewards=True)
    assert returns == [1.0] * 4
    assert lengths == [8] * 4


def test_its_methods():
    envs = native(n=2, min_new_tokens=2, render_mode="rgb_array")
    envs.reset()
    assert [mask[EOS] for mask in envs.env_method("action_masks")] == [False, False]
    assert len(envs.get_attr("tokenizer", indices=[1])) == 1
    assert envs.env_is_wrapped(gym.Wrapper) == [False, False]
    assert envs.env_is_wrapped(Monitor, indices=[1]) == [True]
    assert envs.get_images()[0].shape == (360, 640, 3)
    with pytest.raises(NotImplementedError, match="make the environment with render_mode"):
        envs.set_attr("render_mode", "human")
    with pytest.raises(TypeError, match="takes a vector environment, such as"):
        StableBaselinesVecEnv(gym.make("tril/Toy-v0"))
    with pytest.raises(ValueError, match="got 'Disabled'"):
        StableBaselinesVecEnv(gym.make_vec("tril/Toy-v0", num_envs=2, autoreset_mode="Disabled"))


@pytest.mark.parametrize("make", [lambda: make_vec_env("tril/Toy-v0", n_envs=4, seed=0), lambda: native(n=4)])
def test_their_ppo_runs_on_both(make):
    model = PPO("MlpPolicy", make(), n_steps=16, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(64)
    assert model.num_timesteps == 64


def test_maskable_ppo_never_writes_what_is_not_advised():
    env = gym.make("tril/Toy-v0", min_new_tokens=3)
    model = MaskablePPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(64)
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        action, _ = model.predict(observation, action_masks=env.unwrapped.action_masks())
        assert action != EOS
        observation, *_ = env.step(action)
