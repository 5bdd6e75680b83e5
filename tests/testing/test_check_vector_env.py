"""The check of vector environments passes on ours, and notices environments that are broken on purpose."""

import random

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper

import tril_gym  # noqa: F401  registers the environments
from tril_gym.data import Example
from tril_gym.envs.text_env import TextEnv
from tril_gym.envs.text_vector_env import TextVectorEnv
from tril_gym.envs.toy import toy_config
from tril_gym.testing import ConformanceError, check_vector_env


class Broken(VectorWrapper):
    """The vector environment of Toy, of which a subclass breaks one rule."""

    def __init__(self, num_envs, autoreset_mode):
        super().__init__(TextVectorEnv(toy_config(dense=True), num_envs, autoreset_mode=autoreset_mode))
        self._metadata = dict(self.env.metadata)
        self.is_idle = np.zeros(num_envs, bool)


class OtherMode(Broken):
    def __init__(self, num_envs, autoreset_mode):
        super().__init__(num_envs, autoreset_mode)
        self._metadata["autoreset_mode"] = AutoresetMode.NEXT_STEP


class FlatObservations(Broken):
    observation_space = gym.spaces.Box(-1, 15, (36,), np.int64)


class LateFlags(Broken):
    def step(self, actions):
        result = super().step(actions)
        return (*result[:2], np.zeros_like(result[2]), *result[3:])


class ReadsTheActionOfItsReset(Broken):
    def step(self, actions):
        observations, *rest = super().step(actions)
        fresh = (observations[:, 4:] < 0).all(1)
        observations[fresh, 4] = np.asarray(actions)[fresh]
        return observations, *rest


class NoFinalObservations(Broken):
    def step(self, actions):
        *rest, infos = super().step(actions)
        return *rest, {key: value for key, value in infos.items() if key != "_final_obs"}


class PaysIdleRows(Broken):
    def step(self, actions):
        observations, rewards, terminated, *rest = super().step(actions)
        rewards = rewards + self.is_idle
        self.is_idle |= terminated
        return observations, rewards, terminated, *rest


class InfosOfRowsThatGoOn(Broken):
    def reset(self, *, seed=None, options=None):
        observations, infos = super().reset(seed=seed, options=options)
        return observations, {key: np.ones_like(it) if key.startswith("_") else it for key, it in infos.items()}


class ResetsEveryRow(Broken):
    def reset(self, *, seed=None, options=None):
        kept = {key: value for key, value in (options or {}).items() if key != "reset_mask"}
        return super().reset(seed=seed, options=kept)


class OneSeedForAllRows(Broken):
    def reset(self, *, seed=None, options=None):
        seed = [seed] * self.num_envs if isinstance(seed, int) else seed
        return super().reset(seed=seed, options=options)


class RewardOfTheNeighbour(Broken):
    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations, np.roll(rewards, 1), *rest


class PaysNan(Broken):
    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations, np.where(rewards > 0, np.nan, rewards), *rest


class UsesRandom(Broken):
    def step(self, actions):
        random.random()
        return super().step(actions)


class ChangesActions(Broken):
    def step(self, actions):
        result = super().step(actions)
        actions[0] = 7
        return result


class ReusesObservations(Broken):
    def __init__(self, num_envs, autoreset_mode):
        super().__init__(num_envs, autoreset_mode)
        self.env.copy = False


class RemovesTheMask(Broken):
    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed, options=options)
        (options or {}).pop("reset_mask", None)
        return result


class CannotBePickled(Broken):
    def __init__(self, num_envs, autoreset_mode):
        super().__init__(num_envs, autoreset_mode)
        self.function = lambda: None


class CopiesShareTheTexts(Broken):
    def __deepcopy__(self, memo):
        return self


class RestartsAtThePrompt(Broken):
    def reset(self, *, seed=None, options=None):
        kept = {key: value for key, value in (options or {}).items() if key != "completion"}
        return super().reset(seed=seed, options=kept)


class RestartDraws(Broken):
    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed, options=options)
        if "completion" in (options or {}):
            self.unwrapped.np_random[0].random()
        return result


class ReadsRowsOutsideTheMask(Broken):
    def reset(self, *, seed=None, options=None):
        if any(example < 0 for example in (options or {}).get("example", [])):
            raise ConformanceError("it reads the example of a row that is not reset")
        return super().reset(seed=seed, options=options)


class AcceptsUnknownTokens(Broken):
    def reset(self, *, seed=None, options=None):
        if "completion" in (options or {}):
            options = options | {"completion": np.minimum(options["completion"], 15)}
        return super().reset(seed=seed, options=options)


class FloatRewards(Broken):
    """Equal to the single environment, but for the type of its rewards."""

    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations, rewards.astype(np.float32), *rest


def single():
    return TextEnv(toy_config(dense=True))


def another_spec(num_envs, autoreset_mode):
    envs = gym.make_vec("tril/Toy-v0", num_envs=num_envs, autoreset_mode=autoreset_mode)
    envs.unwrapped.spec.kwargs["rule"] = "stop"
    return envs


@pytest.mark.parametrize(
    ("make_vec", "mode", "message"),
    [
        (lambda **_: single(), "NextStep", "make_vec\\(\\) returns a gymnasium.vector.VectorEnv"),
        (OtherMode, "SameStep", 'is AutoresetMode\\("SameStep"\\), in which it was made'),
        (FlatObservations, "NextStep", "observation_space is batch_space\\(single_observation_space, 3\\)"),
        (LateFlags, "NextStep", "terminated is True after the tokens"),
        (ReadsTheActionOfItsReset, "NextStep", "which resets it, the last 8 columns show"),
        (NoFinalObservations, "SameStep", "have final_obs and final_info"),
        (PaysIdleRows, "Disabled", "is paid 0 and neither terminated nor truncated; found: \\(1.0"),
        (InfosOfRowsThatGoOn, "Disabled", "a row that is not reset has no info"),
        (ResetsEveryRow, "Disabled", "of other rows, "),
        (OneSeedForAllRows, "NextStep", "gives row i the seed 0 \\+ i"),
        (RewardOfTheNeighbour, "SameStep", "returns in a vector environment of one row"),
        (PaysNan, "NextStep", "the reward is a finite number; found: nan"),
        (UsesRandom, "NextStep", "uses no global random generator; found: it uses that of random"),
        (ChangesActions, "NextStep", "step does not change its actions"),
        (ReusesObservations, "NextStep", "observations are new arrays"),
        (RemovesTheMask, "Disabled", "reset does not change its options"),
        (CannotBePickled, "NextStep", "can be pickled.*found: .*lambda"),
        (CopiesShareTheTexts, "NextStep", "can be deep-copied"),
        (RestartsAtThePrompt, "NextStep", "has the observations of the same steps"),
        (RestartDraws, "NextStep", "draws nothing from the generators of the rows"),
        (ReadsRowsOutsideTheMask, "Disabled", "of a row that is not reset"),
        (AcceptsUnknownTokens, "NextStep", "refuses a token outside 0 … 15, with ValueError; found: no error"),
        (another_spec, "NextStep", "spec\\) makes the same vector environment again"),
        (FloatRewards, "NextStep", "equals SyncVectorEnv over single environments, at step 0 .*float32"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_rule_is_named(make_vec, mode, message):
    with pytest.raises(ConformanceError, match=message):
        check_vector_env(make_vec, single, modes=[mode])


def test_the_unbroken_double_passes():
    check_vector_env(Broken, single)


def test_gymnasiums_own_vector_environments_pass():
    """Without restarts of single rows, rows that ended must be reset in mode DISABLED."""

    def make_vec(num_envs, autoreset_mode):
        return SyncVectorEnv([single] * num_envs, autoreset_mode=autoreset_mode)

    check_vector_env(make_vec, single)


def test_environments_with_stop_strings_pass():
    settings = {"max_prompt_length": 8, "max_new_tokens": 10, "reward": "rouge_l", "stop": ["dog", " in the"]}
    dataset = [Example("a dog", references=("a dog runs",)), Example("a cat", references=("a cat sits",))]
    check_vector_env(
        lambda num_envs, autoreset_mode: gym.make_vec(
            "tril/CommonGen-v0", num_envs=num_envs, autoreset_mode=autoreset_mode, dataset=dataset, **settings
        )
    )
