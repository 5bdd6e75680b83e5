"""A wrapper in which one step writes a whole completion, given as text: for libraries of single-turn text tasks.

n rows, T new tokens, V words in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from tril_gym.utils.batched_infos import batched, row_of
from tril_gym.utils.deferred_rewards import merged, rows_to_credit, rows_with_final_info
from tril_gym.utils.text_codec import TextCodec
from tril_gym.utils.tokenization import after_prompt
from tril_gym.wrappers.text_observation import completion_of, tokenizer_of
from tril_gym.wrappers.text_space import AnyText
from tril_gym.wrappers.vector import TextVectorWrapper, check_observes_tokens
from tril_gym.wrappers.without_info import check_infos_pass

NO_INFO: Mapping[str, Any] = {}
NOT_BEGUN = "no text has begun, or it has ended: call reset() before step()"


class WholeText(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Observe the text so far and take its whole rest as one action, so that every episode is one step.

    `reset` returns the prompt; `step(" a completion")` tokenises the string, ends it with EOS, or at T tokens, and
    returns the whole text, the sum of the tokens' rewards and the last token's info. A space is put between prompt and
    completion where the string has none. Names of special tokens in the string are ordinary text.

    A vector environment must be in autoreset mode DISABLED: `reset()` begins its next n texts. Rows that have ended
    must be idle there, as those of `gym.make_vec` are; a `SyncVectorEnv` can have one row only.
    """

    def __new__(cls, env: Any = None) -> Any:
        """Return the wrapper for a single or a vector environment; without `env` an empty one, for copy and pickle."""
        return VectorWholeText(env) if isinstance(env, VectorEnv) else super().__new__(cls)

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        check_observes_tokens(env, "WholeText")
        check_infos_pass(env, "WholeText", ["prompt"])
        self.observation_space, self.action_space = AnyText(), AnyText()
        self._spelling = Spelling(tokenizer_of(env), env.metadata["text"])
        self._prompt: str | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin a text; with a restart's completion, the observation includes it."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._prompt = str(info["prompt"])
        self._begun = self._spelling.begun(observation)
        return self._spelling.text_so_far(self._prompt, observation), info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Write the rest of the text."""
        if self._prompt is None:
            raise ResetNeeded(NOT_BEGUN)
        total = 0.0
        for token in self._spelling.tokens(action, self._begun):
            observation, reward, terminated, truncated, info = self.env.step(token)
            total += float(reward)
            if terminated or truncated:
                break
        prompt, self._prompt = self._prompt, None  # the text has ended
        return self._spelling.text_so_far(prompt, observation, info), total, terminated, truncated, info


class VectorWholeText(TextVectorWrapper):
    """`WholeText` around a vector environment; observations and actions are n strings."""

    def __init__(self, env: VectorEnv) -> None:
        check_observes_tokens(env, "WholeText")
        check_infos_pass(env, "WholeText", ["prompt"])
        super().__init__(env)
        if self.autoreset_mode != AutoresetMode.DISABLED:
            raise ValueError(
                'WholeText ends all rows in one step, so make the environment with autoreset_mode="Disabled" and reset'
                f" it for the next texts, got {self.autoreset_mode.value!r}"
            )
        base = env.unwrapped
        if isinstance(base, SyncVectorEnv | AsyncVectorEnv) and self.num_envs > 1:
            raise ValueError(
                f"WholeText steps until all rows have ended, and in mode Disabled a {type(base).__name__} cannot be"
                " stepped once a row has; use the vector environment of gym.make_vec, or num_envs=1"
            )
        self.single_observation_space, self.single_action_space = AnyText(), AnyText()
        self.observation_space = batch_space(AnyText(), self.num_envs)
        self.action_space = batch_space(AnyText(), self.num_envs)
        self._spelling = Spelling(tokenizer_of(env), env.metadata["text"])
        self._prompts: list[str] = []
        self._begun: list[list[int]] = []

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin n texts.

        Raises:
            ValueError: only some rows are to be reset.
        """
        if options and "reset_mask" in options:
            raise ValueError("WholeText resets all rows at once; leave reset_mask out")
        observations, infos = self.env.reset(seed=seed, options=options)
        self._prompts = [str(prompt) for prompt in infos["prompt"]]
        self._begun = list(map(self._spelling.begun, observations))
        return tuple(map(self._spelling.text_so_far, self._prompts, observations)), infos

    def step(self, actions: Sequence[str]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Write the rest of all n texts."""
        if isinstance(actions, str) or len(actions) != self.num_envs:
            raise ValueError(f"actions must be {self.num_envs} strings, got {actions!r}")
        if not self._prompts:
            raise ResetNeeded(NOT_BEGUN)
        columns = [self._spelling.tokens(*pair) for pair in zip(actions, self._begun, strict=True)]
        totals, flags = np.zeros(self.num_envs), np.zeros((2, self.num_envs), bool)
        ends: dict[int, dict[str, Any]] = {}
        for column in range(max(map(len, columns))):
            tokens = [row[min(column, len(row) - 1)] for row in columns]  # those of ended rows are not read
            observations, rewards, terminated, truncated, infos = self.env.step(np.array(tokens))
            paid = rows_to_credit(np.logical_not(flags.any(axis=0)), infos, can_wait=True)
            totals[paid] += rewards[paid]
            flags |= np.stack([terminated, truncated])
            ended = np.flatnonzero(terminated | truncated)
            for row in rows_with_final_info(ended, infos, self.num_envs, can_wait=True).tolist():
                ends[row] = merged(ends.get(row, {}), row_of(infos, row))
            if flags.any(axis=0).all():
                break
        self._prompts, prompts = [], self._prompts  # all texts have ended
        texts = tuple(map(self._spelling.text_so_far, prompts, observations, (ends[row] for row in sorted(ends))))
        return texts, totals, flags[0], flags[1], batched(dict(sorted(ends.items())), self.num_envs)


class Spelling:
    """Turns observations into text and completions into tokens."""

    def __init__(self, tokenizer: Any, text: Mapping[str, Any]) -> None:
        self.tokenizer, self.text, self._codec = tokenizer, text, TextCodec(tokenizer)

    def begun(self, observation: Any) -> list[int]:
        """Return the ids of the completion so far."""
        written = observation[self.text["max_prompt_length"] :]
        return [int(token) for token in written if token >= 0]

    def text_so_far(self, prompt: str, observation: Any, info: Mapping[str, Any] = NO_INFO) -> str:
        """Return a prompt and what is written: the completion of a text that has ended, else all tokens."""
        written = completion_of(observation[self.text["max_prompt_length"] :], self.tokenizer)
        return prompt + str(info.get("completion", written))

    def tokens(self, completion: str, begun: list[int]) -> list[int]:
        """Return a completion as token ids that continue those begun, with EOS; those beyond T end the text before."""
        if not isinstance(completion, str):
            raise ValueError(f"an action is the completion as a string, got {completion!r}")
        text = completion if begun else after_prompt(self.text.get("joiner", ""), completion)
        return [*self._codec.ids(text, after=begun), self.text["eos_token_ids"][0]]
