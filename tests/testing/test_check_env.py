"""The check of single environments passes on ours, and notices environments that are broken on purpose."""

import functools
import random

import gymnasium as gym
import numpy as np
import pytest

import tril_gym  # noqa: F401  registers the environments
from tril_gym.data import Example
from tril_gym.envs.text_env import TextEnv
from tril_gym.envs.toy import toy_config
from tril_gym.registration import make_text_env
from tril_gym.testing import ConformanceError, check_env

TOKEN, EOS = 5, 1


class Broken(gym.Wrapper):
    """The toy environment, of which a subclass breaks one rule."""

    keywords: dict = {}  # noqa: RUF012

    def __init__(self):
        super().__init__(TextEnv(toy_config(**self.keywords), render_mode=None))
        self.metadata = self.env.metadata | {"text": dict(self.env.metadata["text"])}
        self.break_metadata(self.metadata["text"])

    def break_metadata(self, text):
        pass


class LacksAKey(Broken):
    def break_metadata(self, text):
        del text["vocab_size"]


class EosOutOfRange(Broken):
    def break_metadata(self, text):
        text["eos_token_ids"] = [16]


class ArrayInMetadata(Broken):
    def break_metadata(self, text):
        text["eos_token_ids"] = np.array([1])


class MinimumAboveTheMaximum(Broken):
    def break_metadata(self, text):
        text["min_new_tokens"] = 9


class FloatObservations(Broken):
    observation_space = gym.spaces.Box(-1, 15, (12,), np.float32)


class OneMoreAction(Broken):
    action_space = gym.spaces.Discrete(17)


class PromptOnTheLeft(Broken):
    def reset(self, **keywords):
        observation, info = super().reset(**keywords)
        prompt = observation[:4][observation[:4] >= 0][:2]
        observation[:4] = [*prompt, -1, -1]
        return observation, info


class HidesTheLastToken(Broken):
    def step(self, action):
        observation, *rest = super().step(action)
        observation[np.flatnonzero(observation >= 0)[-1]] = -1
        return observation, *rest


class PromptChanges(Broken):
    def step(self, action):
        observation, *rest = super().step(action)
        observation[3] = 2 + observation[3] % 5
        return observation, *rest


class NeverEnds(Broken):
    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, False, truncated, info


class Truncates(Broken):
    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, terminated, info


class PaysEveryToken(Broken):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, 0.5, *rest


class PaysNan(Broken):
    def step(self, action):
        observation, _, terminated, *rest = super().step(action)
        return observation, float("nan") if terminated else 0.0, terminated, *rest


class ChangesInfo(Broken):
    change: dict = {}  # noqa: RUF012

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, info | {key: value for key, value in self.change.items() if info}


class WrongTokens(ChangesInfo):
    change = {"tokens": [TOKEN]}  # noqa: RUF012


class WrongReason(ChangesInfo):
    change = {"finish_reason": "eos"}  # noqa: RUF012


class OtherPrompt(ChangesInfo):
    change = {"prompt": "another"}  # noqa: RUF012


class ScoreNan(ChangesInfo):
    change = {"scores": {"rouge_l": float("nan")}}  # noqa: RUF012


class UnknownExample(Broken):
    def break_metadata(self, text):
        text["num_examples"] = 3


class ReusesObservations(Broken):
    def __init__(self):
        super().__init__()
        self.buffer = np.zeros(12, np.int64)

    def reset(self, **keywords):
        self.buffer[:], info = super().reset(**keywords)
        return self.buffer, info

    def step(self, action):
        self.buffer[:], *rest = super().step(action)
        return self.buffer, *rest


class IgnoresTheSeed(Broken):
    def reset(self, *, seed=None, options=None):
        return super().reset(options=options)


class AlwaysTheSameSeed(Broken):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=0, options=options)


class BeginsAgainWithoutASeed(Broken):
    last = 0

    def reset(self, *, seed=None, options=None):
        self.last = self.last if seed is None else seed
        return super().reset(seed=self.last, options=options)


class UsesRandom(Broken):
    def step(self, action):
        random.random()
        return super().step(action)


class UsesNumpy(Broken):
    def reset(self, **keywords):
        np.random.seed(0)  # noqa: NPY002
        return super().reset(**keywords)


class ChangesOptions(Broken):
    def reset(self, *, seed=None, options=None):
        (options or {}).pop("unknown", None)
        return super().reset(seed=seed, options=options)


class SharesItsInfo(Broken):
    def reset(self, **keywords):
        observation, self.info = super().reset(**keywords)
        return observation, self.info

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, info | self.info if info else info


class ChangesItsMetadata(Broken):
    def step(self, action):
        self.metadata["text"]["dense_reward"] = None
        return super().step(action)


class CannotBePickled(Broken):
    def __init__(self):
        super().__init__()
        self.function = lambda: None


class CopiesShareTheText(Broken):
    def __deepcopy__(self, memo):
        return self


class RestartsAtThePrompt(Broken):
    def reset(self, *, seed=None, options=None):
        example = {key: value for key, value in (options or {}).items() if key == "example"}
        return super().reset(seed=seed, options=example or options)


class RestartDraws(Broken):
    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed, options=options)
        if options:
            self.unwrapped.np_random.random()
        return result


class AcceptsEverything(Broken):
    def reset(self, *, seed=None, options=None):
        try:
            return super().reset(seed=seed, options=options)
        except ValueError:
            return super().reset(seed=seed)


class SeedsBeforeItRefuses(Broken):
    def reset(self, *, seed=None, options=None):
        if seed is not None:
            super().reset(seed=seed)
        return super().reset(seed=seed, options=options)


class AdvisesEos(Broken):
    keywords = {"min_new_tokens": 3}  # noqa: RUF012

    def action_masks(self):
        return np.ones(16, bool)


def another_spec():
    env = gym.make("tril/Toy-v0")
    env.spec.kwargs["rule"] = "stop"
    env.unwrapped._spec.kwargs["rule"] = "stop"
    return env


def unknown_render_mode():
    env = make_text_env("tril/Toy-v0", reward=None)
    env.spec = gym.make("tril/Toy-v0").spec
    env.metadata["render_modes"] = ["hologram"]
    return env


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (dict, "make\\(\\) returns a gymnasium.Env"),
        (functools.partial(lambda env: env, TextEnv(toy_config())), "a new environment in every call"),
        (LacksAKey, "with max_prompt_length, .*vocab_size"),
        (EosOutOfRange, "eos_token_ids is a list of one or more ids in 0 … 15; found: \\(16,\\)"),
        (ArrayInMetadata, "plain data"),
        (MinimumAboveTheMaximum, "min_new_tokens is in 0 … max_new_tokens, 8; found: 9"),
        (FloatObservations, "observations are integers in .*here Box\\(-1, 15, \\(12,\\)\\)"),
        (OneMoreAction, "here Discrete\\(16\\); found: Discrete\\(17\\)"),
        (PromptOnTheLeft, "aligned right in the first 4 columns"),
        (HidesTheLastToken, "columns show the tokens so far"),
        (PromptChanges, "does not change within an episode"),
        (NeverEnds, "terminated is True.*found: False"),
        (Truncates, "truncated is False"),
        (PaysEveryToken, "the reward before the end is 0, or .*found: 0.5"),
        (PaysNan, "the reward is a finite number; found: nan"),
        (WrongTokens, "has the ids of the whole text"),
        (WrongReason, "is 'stop'; found: 'eos' and 'stop'"),
        (OtherPrompt, "info\\['prompt'\\] of the ending step is that of reset"),
        (ScoreNan, "'rouge_l'\\] is a finite number"),
        (UnknownExample, "an index in 0 … 2; found: 54"),
        (ReusesObservations, "an observation is a new array"),
        (IgnoresTheSeed, "repeats the episode of seed 0"),
        (AlwaysTheSameSeed, "seeds choose the prompt"),
        (BeginsAgainWithoutASeed, "without a seed draws prompts"),
        (UsesRandom, "uses no global random generator; found: it uses that of random"),
        (UsesNumpy, "found: it uses that of numpy.random"),
        (ChangesOptions, "reset does not change its options"),
        (SharesItsInfo, "does not read what the caller does with"),
        (ChangesItsMetadata, "do not change the metadata"),
        (CannotBePickled, "can be pickled .*found: .*lambda"),
        (CopiesShareTheText, "can be deep-copied in an episode"),
        (RestartsAtThePrompt, "has the observation of the same steps"),
        (RestartDraws, "draws nothing from the environment's generator"),
        (AcceptsEverything, "refuses a completion without its example, with ValueError; found: no error"),
        (SeedsBeforeItRefuses, "a refused reset changes nothing"),
        (AdvisesEos, "is False on EOS before 3 tokens"),
        (another_spec, "gym.make\\(env.spec\\) makes the same environment again"),
        (unknown_render_mode, "env_checker.check_env passes; found: .*hologram"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_rule_is_named(make, message):
    with pytest.raises(ConformanceError, match=f"broken rule: .*{message}"):
        check_env(make)


def test_the_unbroken_double_passes():
    check_env(Broken)


def test_arrays_and_missing_labels_in_extras_pass():
    extras = {"array": np.array([0.0, np.nan]), "number": 2.5, "nested": {"a": 1}, "missing": float("nan")}
    examples = [Example("w2"), Example("w9", extras=extras)]
    tokenizer = TextEnv(toy_config()).tokenizer
    check_env(lambda: make_text_env("tril/IMDB-v0", dataset=examples, tokenizer=tokenizer, reward=None))


class TestStopStrings:
    keywords = {  # noqa: RUF012
        "dataset": [Example("a dog", references=("a dog runs",))],
        "reward": "rouge_l",
        "max_prompt_length": 8,
        "max_new_tokens": 10,
    }

    def test_an_environment_with_them_passes(self):
        check_env(lambda: gym.make("tril/CommonGen-v0", **self.keywords, stop=["dog", " in the"]))

    def test_one_that_goes_on_after_them_is_noticed(self):
        def make():
            env = gym.make("tril/CommonGen-v0", **self.keywords)
            env.unwrapped.metadata = env.unwrapped.metadata | {"text": env.metadata["text"] | {"stop": [" in the"]}}
            return env

        with pytest.raises(ConformanceError, match=r"terminated is True.* or at one of \[' in the'\]; found: False"):
            check_env(make)

    def test_they_need_a_tokenizer(self):
        class WithoutTokenizer(Broken):
            def break_metadata(self, text):
                text["stop"] = ["a"]
                del self.env.config.tokenizer

        with pytest.raises(ConformanceError, match="shows its tokenizer"):
            check_env(WithoutTokenizer)
