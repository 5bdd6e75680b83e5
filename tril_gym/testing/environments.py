"""The contract of a single text environment, as a check that its author runs.

P prompt tokens, T new tokens, V words in the vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env as gymnasium_check_env

from tril_gym.testing.conformance import as_broken, no_global_randomness, refuses, require, require_same, unchanged
from tril_gym.testing.text_sizes import TextSizes

MakeEnv = Callable[[], gym.Env[Any, Any]]
SEEDS = 16  # among so many seeds, two must give different episodes


def check_env(make: MakeEnv, *, seed: int = 0) -> None:
    """Check a single text environment against the contract of docs/environments.md.

    Metadata and spaces, Gymnasium's own checks, observations, rewards and ends of episodes, seeds, the absence of side
    effects, restarts (if the metadata offers them), action masks (if there are any), copies and the specification (if
    `gym.make` made the environment).

    Args:
        make: returns a new environment, such as `lambda: gym.make("tril/Toy-v0")`, or its class.
        seed: of the random texts.

    Raises:
        ConformanceError: a rule is broken. The message has the rule and the values.
    """
    env = make()
    require(isinstance(env, gym.Env), "make() returns a gymnasium.Env", repr(env))
    require(make() is not env, "make() returns a new environment in every call", "the same object twice")
    sizes = TextSizes.of(env)
    sizes.check_spaces(env.observation_space, env.action_space)
    _check_episodes(make, sizes, seed)
    with no_global_randomness("an environment"):  # not in the first episodes: libraries draw when they are imported
        for check in (_check_seeds, _check_side_effects, _check_copies, _check_restarts):
            check(make, sizes, seed)
    _check_bad_restarts(make, sizes, seed)
    _check_spec(make, sizes, seed)
    _check_gymnasium(make)


def write(env: gym.Env[Any, Any], tokens: list[int]) -> list[tuple[Any, ...]]:
    """Step with these tokens until the text ends; return what the steps returned."""
    steps: list[tuple[Any, ...]] = []
    for token in tokens:
        steps.append(env.step(token))
        if steps[-1][2] or steps[-1][3]:
            break
    return steps


def episode(env: gym.Env[Any, Any], tokens: list[int], **reset: Any) -> list[tuple[Any, ...]]:
    """Return what a reset and the steps after it returned."""
    return [env.reset(**reset), *write(env, tokens)]


def _resets(env: gym.Env[Any, Any]) -> list[Any]:
    """Return what the next resets draw: several, since a generator may hold half a number back."""
    return [env.reset() for _ in range(3)]


def _texts(sizes: TextSizes, seed: int) -> list[list[int]]:
    """Return completions of every kind: EOS at once, after some tokens, as the last one, and never; a stop string."""
    rng = np.random.default_rng(seed)
    lengths = [1, (1 + sizes.max_new_tokens) // 2, sizes.max_new_tokens, None]
    texts = [*(sizes.random_tokens(rng, length) for length in lengths), sizes.tokens_of_stop()]
    return [tokens for tokens in texts if tokens]


def _check_episodes(make: MakeEnv, sizes: TextSizes, seed: int) -> None:
    env = make()
    for number, tokens in enumerate(_texts(sizes, seed)):
        where = f"in an episode with seed {seed + number} and the actions {tokens}"
        observation, info = env.reset(seed=seed + number)
        require(isinstance(info, dict), f"{where}, reset returns (observation, dictionary)", repr(info))
        seen = [(observation, observation.copy())]
        prompt = sizes.prompt_of(observation)
        sizes.check_observation(observation, None, [], f"{where}, after reset")
        for count in range(1, len(tokens) + 1):
            _check_masks(env, sizes, count - 1, where)
            step = env.step(np.int64(tokens[count - 1]) if count % 2 else tokens[count - 1])
            _check_step(step, sizes, prompt, tokens[:count], f"{where}, after step {count}")
            seen.append((step[0], step[0].copy()))
        _check_end(info, step[4], tokens, sizes, where)
        rule = f"{where}, an observation is a new array, which later steps do not change"
        for kept, then in seen:
            require_same(kept, then, rule)
    env.close()


def _check_step(step: Any, sizes: TextSizes, prompt: list[int], written: list[int], where: str) -> None:
    rule = f"{where}, step returns (observation, reward, terminated, truncated, info)"
    require(isinstance(step, tuple) and len(step) == 5 and isinstance(step[4], dict), rule, repr(step))
    observation, reward, terminated, truncated, _ = step
    sizes.check_observation(observation, prompt, written, where)
    ends = sizes.ends(written)
    rule = f"{where}, terminated is {ends}: a text ends at EOS {sizes.eos_token_ids} or at token {sizes.max_new_tokens}"
    rule += f", or at one of {list(sizes.stop.strings)}" if sizes.stop else ""
    require(isinstance(terminated, bool | np.bool_) and bool(terminated) == ends, rule, repr(terminated))
    rule = f"{where}, truncated is False: a text has no limit but those that terminate it"
    require(isinstance(truncated, bool | np.bool_) and not truncated, rule, repr(truncated))
    is_number = isinstance(reward, int | float | np.number) and np.isfinite(reward)
    require(bool(is_number), f"{where}, the reward is a finite number", repr(reward))
    if not (ends or sizes.dense_reward):
        rule = f'{where}, the reward before the end is 0, or metadata["text"] has "dense_reward": True'
        require(reward == 0, rule, repr(reward))


def _check_end(first: dict[str, Any], last: dict[str, Any], tokens: list[int], sizes: TextSizes, where: str) -> None:
    """Check the info of the ending step, as far as it has the keys of text environments."""
    if "tokens" in last:
        rule = f'{where}, info["tokens"] of the ending step has the ids of the whole text'
        require_same(last["tokens"], tokens, rule)
    if "finish_reason" in last:
        reason = "stop" if sizes.has_stopped(tokens) else "length"
        require_same(last["finish_reason"], reason, f'{where}, info["finish_reason"] is {reason!r}')
    for key in {"example", "prompt", "references", "extras"} & set(first) & set(last):
        require_same(last[key], first[key], f"{where}, info[{key!r}] of the ending step is that of reset")
    for name, score in last.get("scores", {}).items():
        is_number = isinstance(score, int | float) and np.isfinite(score)
        require(bool(is_number), f'{where}, info["scores"][{name!r}] is a finite number', repr(score))
    if sizes.num_examples is not None and "example" in first:
        rule = f'{where}, info["example"] is an index in 0 … {sizes.num_examples - 1}'
        require(first["example"] in range(sizes.num_examples), rule, repr(first["example"]))


def _check_masks(env: gym.Env[Any, Any], sizes: TextSizes, length: int, where: str) -> None:
    if not env.has_wrapper_attr("action_masks"):
        return
    mask = env.get_wrapper_attr("action_masks")()
    rule = f"{where}, action_masks() is False on EOS before {sizes.min_new_tokens} tokens, else True; after {length}"
    advised = np.ones(sizes.vocab_size, bool)
    if length < sizes.min_new_tokens:
        advised[list(sizes.eos_token_ids)] = False
    require_same(mask, advised, rule)


def _check_seeds(make: MakeEnv, sizes: TextSizes, seed: int) -> None:
    tokens = _texts(sizes, seed)[-1]
    env, other = make(), make()
    first = episode(env, tokens, seed=seed)
    require_same(episode(env, tokens, seed=seed), first, f"an environment repeats the episode of seed {seed}")
    require_same(episode(other, tokens, seed=seed), first, f"two environments have the same episode of seed {seed}")
    rule = f"after reset(seed={seed}), reset() without a seed continues the environment's own generator"
    for _ in range(3):
        require_same(episode(env, tokens), episode(other, tokens), rule)
    if sizes.num_examples != 1:
        prompts = {tuple(env.reset(seed=seed + i)[0].tolist()) for i in range(SEEDS)}
        rule = 'seeds choose the prompt, or metadata["text"] has "num_examples": 1'
        require(len(prompts) > 1, rule, f"one prompt for {SEEDS} seeds, {prompts}")
        env.reset(seed=seed)
        prompts = {tuple(env.reset()[0].tolist()) for _ in range(SEEDS)}
        require(len(prompts) > 1, "reset() without a seed draws prompts", f"one prompt in {SEEDS} episodes, {prompts}")


def _check_side_effects(make: MakeEnv, sizes: TextSizes, seed: int) -> None:
    """Check that what the caller holds and what the environment holds are apart."""
    tokens = _texts(sizes, seed)[-1]
    env, other = make(), make()
    with unchanged("reset and step do not change the metadata", env.metadata):
        expected = episode(env, tokens, seed=seed)
    observation, info = other.reset(seed=seed)
    _scribble(observation, info)
    steps = []
    for token in tokens:
        steps.append(copy.deepcopy(step := other.step(token)))
        _scribble(step[0], step[4])
        if step[2] or step[3]:
            break
    rule = "an environment does not read what the caller does with the observations and infos that it returned"
    require_same(steps, expected[1:], rule)
    require_same(episode(other, tokens, seed=seed), expected, rule)
    options = {"unknown": [1]}
    with unchanged("reset does not change its options", options):
        env.reset(seed=seed, options=options)


def _scribble(observation: Any, info: Any) -> None:
    """Overwrite an observation, and everything in an info that can be changed."""
    observation[:] = -1
    for value in info.values():
        if isinstance(value, np.ndarray):
            value[:] = 0
        elif isinstance(value, list | dict):
            value.clear()


def _check_copies(make: MakeEnv, sizes: TextSizes, seed: int) -> None:
    tokens = _texts(sizes, seed)[-1]
    half = len(tokens) // 2
    env = make()
    ways: dict[str, Callable[[Any], Any]] = {
        "pickled": lambda env: pickle.loads(pickle.dumps(env)),
        "deep-copied": copy.deepcopy,
    }
    for name, copied in ways.items():
        episode(env, tokens[:half], seed=seed)
        rule = f"an environment can be {name} in an episode, and both continue alike"
        with as_broken(rule):
            other = copied(env)
            require_same(write(other, tokens[half:]), write(env, tokens[half:]), rule)
        require_same(_resets(other), _resets(env), f"{rule}, with the same generator")


def _check_restarts(make: MakeEnv, sizes: TextSizes, seed: int) -> None:
    """Check that an episode which begins in a state equals one that was stepped there."""
    if sizes.restart is None:
        return
    env, stepped, drawn = make(), make(), make()
    for tokens in _texts(sizes, seed):
        for count in sorted({0, 1, len(tokens) // 2, len(tokens) - 1} & set(range(len(tokens)))):
            where = f"a restart after the tokens {tokens[:count]}"
            first, info = stepped.reset(seed=seed)
            require("example" in info, f'{where} needs info["example"] of reset', repr(info))
            before = [(first,), *write(stepped, tokens[:count])]
            env.reset(seed=seed)
            options = {"example": info["example"], "completion": np.array(tokens[:count], np.int64)}
            with unchanged(f"{where} does not change its options", options):
                observation, again = env.reset(options=options)
            require_same(observation, before[-1][0], f"{where} has the observation of the same steps")
            require_same(again, info, f"{where} has the info of a reset")
            rule = f"{where} continues as after the same steps, with the actions {tokens[count:]}"
            require_same(write(env, tokens[count:]), write(stepped, tokens[count:]), rule)
            drawn.reset(seed=seed)
            require_same(_resets(env), _resets(drawn), f"{where} draws nothing from the environment's generator")


def _check_bad_restarts(make: MakeEnv, sizes: TextSizes, seed: int) -> None:
    if sizes.restart is None:
        return
    rng, word = np.random.default_rng(seed), sizes.random_tokens(np.random.default_rng(seed), None)[:1]
    whole, eos = sizes.random_tokens(rng, None), list(sizes.eos_token_ids[:1])
    bad: dict[str, dict[str, Any]] = {
        "a completion without its example": {"completion": word},
        "an example below -1": {"example": -2},
        "a whole text": {"example": 0, "completion": whole},
        "a completion with EOS": {"example": 0, "completion": eos},
        f"a token outside 0 … {sizes.vocab_size - 1}": {"example": 0, "completion": [sizes.vocab_size]},
    }
    if sizes.num_examples is not None:
        bad["an unknown example"] = {"example": sizes.num_examples}
    env, other = make(), make()
    env.reset(seed=seed), other.reset(seed=seed)
    for what, options in bad.items():
        refuses(partial(env.reset, seed=1, options=options), f"reset refuses {what}, with ValueError")
    rule = "a refused reset changes nothing"
    require_same(write(env, whole), write(other, whole), rule)
    require_same(_resets(env), _resets(other), rule)


def _check_spec(make: MakeEnv, sizes: TextSizes, seed: int) -> None:
    env = make()
    if env.spec is None:
        return
    rule = "gym.make(env.spec) makes the same environment again"
    with as_broken(rule):
        again = gym.make(copy.deepcopy(env.spec))
    require_same(again.metadata.get("text"), env.metadata["text"], rule)
    tokens = _texts(sizes, seed)[-1]
    require_same(episode(again, tokens, seed=seed), episode(env, tokens, seed=seed), rule)


def _check_gymnasium(make: MakeEnv) -> None:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # render mode "human" prints
        warnings.simplefilter("ignore")
        with as_broken("gymnasium.utils.env_checker.check_env passes"):
            gymnasium_check_env(make())
