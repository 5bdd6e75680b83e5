"""`metadata["text"]` of an environment, checked, and random texts of its sizes.

P prompt tokens, T new tokens, V words in the vocabulary.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from tril_gym.testing.conformance import ConformanceError, as_broken, require, require_same
from tril_gym.utils.stop_strings import StopStrings
from tril_gym.utils.tokenization import encode

Ids = npt.NDArray[np.int64]
REQUIRED = ("max_prompt_length", "max_new_tokens", "vocab_size", "eos_token_ids")


@dataclass(frozen=True, kw_only=True)
class TextSizes:
    """The metadata that the checks read."""

    max_prompt_length: int  # P
    max_new_tokens: int  # T
    vocab_size: int  # V
    eos_token_ids: tuple[int, ...]
    min_new_tokens: int
    num_examples: int | None
    dense_reward: bool
    restart: str | None
    stop: StopStrings
    tokenizer: Any  # of the environment; None where it shows none

    @staticmethod
    def of(env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> TextSizes:
        """Read and check the metadata of an environment.

        Raises:
            ConformanceError: a key is missing or has an impossible value.
        """
        text = env.metadata.get("text")
        rule = f'metadata["text"] is a dictionary with {", ".join(REQUIRED)}'
        require(isinstance(text, dict), rule, repr(text))
        assert isinstance(text, dict)
        require(set(REQUIRED) <= set(text), rule, f"only {', '.join(text)}")
        plain = 'metadata["text"] holds plain data, which JSON writes and reads back unchanged'
        with as_broken(plain):
            require_same(json.loads(json.dumps(text)), text, plain)
        sizes = TextSizes(
            **{name: text[name] for name in REQUIRED[:3]},
            eos_token_ids=tuple(text["eos_token_ids"]) if isinstance(text["eos_token_ids"], list) else (),
            min_new_tokens=text.get("min_new_tokens", 0),
            num_examples=text.get("num_examples"),
            dense_reward=text.get("dense_reward", False),
            restart=text.get("restart"),
            stop=StopStrings(text.get("stop", ()), tokenizer := _tokenizer(env)),
            tokenizer=tokenizer,
        )
        sizes._check()
        return sizes

    def _check(self) -> None:
        for name in REQUIRED[:3]:
            value = vars(self)[name]
            require(type(value) is int and value >= 1, f'metadata["text"][{name!r}] is an integer above 0', repr(value))
        eos = self.eos_token_ids
        rule = f"eos_token_ids is a list of one or more ids in 0 … {self.vocab_size - 1}"
        require(bool(eos) and all(type(i) is int and 0 <= i < self.vocab_size for i in eos), rule, repr(eos))
        rule = f"min_new_tokens is in 0 … max_new_tokens, {self.max_new_tokens}"
        require(0 <= self.min_new_tokens <= self.max_new_tokens, rule, repr(self.min_new_tokens))
        require(self.restart in (None, "single", "rows"), 'restart is None, "single" or "rows"', repr(self.restart))
        rule = "num_examples is None or above 0"
        require(self.num_examples is None or self.num_examples >= 1, rule, repr(self.num_examples))
        rule = "an environment with stop strings shows its tokenizer, by which texts are decoded"
        require(not self.stop or self.tokenizer is not None, rule, f"no tokenizer, and stop is {self.stop.strings}")

    def check_spaces(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        """Raise ConformanceError unless the spaces of a single environment are those of P, T and V."""
        columns = self.max_prompt_length + self.max_new_tokens
        rule = (
            "observations are integers in Box(-1, vocab_size - 1, (max_prompt_length + max_new_tokens,)),"
            f" here Box(-1, {self.vocab_size - 1}, ({columns},))"
        )
        is_box = isinstance(observation_space, gym.spaces.Box) and np.issubdtype(observation_space.dtype, np.integer)
        require(is_box, rule, repr(observation_space))
        expected = gym.spaces.Box(-1, self.vocab_size - 1, (columns,), observation_space.dtype)  # type: ignore[arg-type]
        require(observation_space == expected, rule, repr(observation_space))
        rule = f"actions are token ids in Discrete(vocab_size), here Discrete({self.vocab_size})"
        require(action_space == gym.spaces.Discrete(self.vocab_size), rule, repr(action_space))

    def random_tokens(self, rng: np.random.Generator, length: int | None) -> list[int]:
        """Return a completion: `length` tokens of which the last is EOS, or T without EOS for None."""
        if length is None:
            return self.random_words(rng, self.max_new_tokens)
        return [*self.random_words(rng, length - 1), int(rng.choice(self.eos_token_ids))]

    def random_words(self, rng: np.random.Generator, length: int) -> list[int]:
        """Return so many tokens after which a text goes on: no EOS, and no stop string but at the end."""
        others = np.setdiff1d(np.arange(self.vocab_size), self.eos_token_ids)
        for _ in range(100):
            words: list[int] = rng.choice(others, length).tolist() if len(others) else []
            if not self.stop.are_in(words[:-1]):
                return words
        rule = f"most texts of {length} random tokens have none of the stop strings {self.stop.strings}"
        raise ConformanceError(f"{rule}; found: all of 100 have one")

    def tokens_of_stop(self) -> list[int]:
        """Return the tokens of a completion that ends at a stop string; none where there is no room for it."""
        ids = encode(self.tokenizer, self.stop.strings[0]) if self.stop else []
        ids = self.stop.cut_ids(ids) if len(ids) <= self.max_new_tokens else []
        return ids if self.stop.are_in(ids) else []

    def check_observation(self, observation: Ids, prompt: list[int] | None, written: list[int], where: str) -> None:
        """Raise ConformanceError unless an observation shows this prompt, None for any, and what was written."""
        columns = observation[: self.max_prompt_length].tolist()
        shown = [token for token in columns if token >= 0]
        rule = f"{where}, the prompt is aligned right in the first {self.max_prompt_length} columns, -1 before it"
        require(columns == [-1] * (self.max_prompt_length - len(shown)) + shown, rule, repr(columns))
        if prompt is not None:
            require(shown == prompt, f"{where}, the prompt {prompt} does not change within an episode", repr(shown))
        completion = observation[self.max_prompt_length :].tolist()
        expected = written + [-1] * (self.max_new_tokens - len(written))
        rule = f"{where}, the last {self.max_new_tokens} columns show the tokens so far, {written}, then -1"
        require(completion == expected, rule, repr(completion))

    def prompt_of(self, observation: Ids) -> list[int]:
        """Return the prompt that an observation shows."""
        return [token for token in observation[: self.max_prompt_length].tolist() if token >= 0]

    def ends(self, written: list[int]) -> bool:
        """Return whether a text ends with its last token."""
        return self.has_stopped(written) or len(written) == self.max_new_tokens

    def has_stopped(self, written: list[int]) -> bool:
        """Return whether a text ends with EOS or at a stop string."""
        return written[-1] in self.eos_token_ids or self.stop.are_in(written)


def _tokenizer(env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> Any:
    base: Any = env.unwrapped
    if isinstance(base, gym.vector.SyncVectorEnv):
        base = base.envs[0].unwrapped
    return getattr(base, "tokenizer", None)  # which a foreign environment need not have
