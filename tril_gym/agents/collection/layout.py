"""What an agent needs to know of an environment: `metadata["text"]`, read once and checked.

Observations are (P + T,) integers: the prompt right-aligned in the first P columns, the completion so far in the
other T, -1 where there is no token. Nothing here depends on which environment it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv, VectorRewardWrapper, VectorWrapper
from gymnasium.wrappers.vector import NormalizeReward

from tril_gym.utils.config_fields import check_integer, describe_type
from tril_gym.utils.stop_strings import StopStrings
from tril_gym.utils.text_codec import TextCodec


@dataclass(frozen=True, kw_only=True)
class TextLayout:
    """Sizes in tokens, ids, and capabilities of the environment. `docs/environments.md` describes the metadata."""

    max_prompt_length: int  # P
    max_new_tokens: int  # T
    vocab_size: int  # V
    eos_token_ids: tuple[int, ...]
    min_new_tokens: int = 0
    num_examples: int | None = None
    dense_reward: bool = False
    restart: str | None = None  # "rows": any row can restart in any state; in DISABLED, ended rows are then idle
    autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP
    prompt_eos: bool = False  # whether prompts end in EOS
    stop: tuple[str, ...] = ()  # strings at which a text ends, as the environment decodes it
    max_episode_steps: int | None = None  # limit of a text's steps, from its beginning
    transforms_rewards: bool = False  # whether a wrapper of Gymnasium changes the reward of every step
    reward_missing: bool = False  # nothing rewards the texts, since none was named where one must be
    main_process_reward: bool = False  # whether the main process scores the texts of all processes
    chat: bool = False  # whether prompts are chats, rendered by a chat template
    joiner: str = " "  # between a prompt and a completion that is tokenised from text
    tokenizer: Any = field(default=None, compare=False, repr=False)  # None: a foreign environment without one

    @cached_property
    def stop_strings(self) -> StopStrings:
        """Finds where texts end at a string."""
        return StopStrings(self.stop, self.tokenizer)

    @property
    def keeps_ended_rows(self) -> bool:
        """Whether rows that ended are idle until they are reset, so that a batch can be written to its end."""
        return self.restart == "rows" and self.autoreset_mode == AutoresetMode.DISABLED

    @property
    def may_pay_late(self) -> bool:
        """Whether a collector offers to wait for the rewards of a batch; see `utils.deferred_rewards`.

        Not where a wrapper changes the reward of every step: a text would have one in two steps.
        """
        return self.keeps_ended_rows and not self.transforms_rewards

    @property
    def restarts_within_texts(self) -> bool:
        """Whether a restart after some tokens gives the same rewards and the same end as stepping these tokens."""
        sees_steps = self.dense_reward or self.transforms_rewards or self.max_episode_steps is not None
        return self.restart == "rows" and not sees_steps

    def as_json(self) -> dict[str, Any]:
        """Return the sizes and the ends of texts as plain data."""
        return {
            "max_prompt_length": self.max_prompt_length,
            "max_new_tokens": self.max_new_tokens,
            "min_new_tokens": self.min_new_tokens,
            "eos_token_ids": list(self.eos_token_ids),
            "stop": list(self.stop),
            "chat": self.chat,
        }

    @staticmethod
    def of(envs: VectorEnv) -> TextLayout:
        """Read the metadata of a vector environment.

        Raises:
            TypeError: `envs` is not a vector environment.
            ValueError: the metadata is missing or incomplete.
        """
        if not isinstance(envs, VectorEnv):
            env_id = repr(envs) if isinstance(envs, str) else "id"
            raise TypeError(
                f"agents step vector environments, got {describe_type(envs)}; use gym.make_vec({env_id}, num_envs=...)"
                " or wrap single ones in gymnasium.vector.SyncVectorEnv"
            )
        metadata = envs.metadata
        text = metadata.get("text")
        if not isinstance(text, Mapping):
            raise ValueError(
                f'{envs} has no metadata["text"], from which an agent reads its sizes and its EOS;'
                " docs/environments.md lists the keys a text environment must have"
            )
        required = ("max_prompt_length", "max_new_tokens", "vocab_size", "eos_token_ids")
        missing = [key for key in required if key not in text]
        if missing:
            raise ValueError(f'metadata["text"] lacks {", ".join(missing)}; it must have {", ".join(required)}')
        optional = (
            "min_new_tokens",
            "num_examples",
            "dense_reward",
            "restart",
            "max_episode_steps",
            "joiner",
            "prompt_eos",
            "reward_missing",
            "main_process_reward",
            "chat",
        )
        layout = TextLayout(
            **{key: text[key] for key in required if key != "eos_token_ids"},
            eos_token_ids=_eos_ids(text["eos_token_ids"]),
            stop=_stop_strings(text.get("stop", ())),
            **{key: text[key] for key in optional if key in text},
            autoreset_mode=_autoreset_mode(metadata),
            transforms_rewards=_transforms_rewards(envs),
            tokenizer=_tokenizer(envs),
        )
        layout.check()
        layout.check_observations(envs)
        return layout

    def check(self) -> None:
        """Raise `ValueError` for metadata of another type, or out of its range."""
        where = 'metadata["text"]: '
        for name, minimum in (
            ("max_prompt_length", 1),
            ("max_new_tokens", 1),
            ("vocab_size", 1),
            ("min_new_tokens", 0),
        ):
            check_integer(where + name, getattr(self, name), minimum)
        if self.num_examples is not None:
            check_integer(where + "num_examples", self.num_examples, 1)
        if self.max_episode_steps is not None:
            check_integer(where + "max_episode_steps", self.max_episode_steps, 1)
        outside = [token for token in self.eos_token_ids if not 0 <= token < self.vocab_size]
        if outside or not self.eos_token_ids:
            raise ValueError(
                f"{where}eos_token_ids must be ids of 0 to {self.vocab_size - 1}, one at least, got"
                f" {list(self.eos_token_ids)}"
            )
        if self.stop and self.tokenizer is None:
            raise ValueError(f"{where}stop needs a tokenizer attribute of the environment, which decodes texts")
        if self.restart not in (None, "single", "rows"):
            raise ValueError(f'{where}restart must be None, "single" or "rows", got {self.restart!r}')

    def check_observations(self, envs: VectorEnv) -> None:
        """Raise `ValueError` where a wrapper has made something else of the observations."""
        space, length = envs.single_observation_space, self.max_prompt_length + self.max_new_tokens
        if not isinstance(space, Box) or space.shape != (length,):
            raise ValueError(
                f"agents read observations of ({length},) token ids, and those of {envs} are {space}; leave out the"
                " wrapper that changes them, such as ActionMasking or TextObservation"
            )


def _eos_ids(found: Any) -> tuple[int, ...]:
    """Return the EOS ids of an environment's metadata."""
    ids = [found] if isinstance(found, Integral) else found
    is_list = isinstance(ids, Sequence | np.ndarray) and not isinstance(ids, str)
    if not is_list or not all(isinstance(token, Integral) and not isinstance(token, bool) for token in ids):
        raise ValueError(f'metadata["text"]: eos_token_ids must be a list of ids such as [0], got {found!r}')
    return tuple(int(token) for token in ids)


def _stop_strings(found: Any) -> tuple[str, ...]:
    """Return the stop strings of an environment's metadata."""
    is_list = isinstance(found, Sequence) and not isinstance(found, str)
    if not is_list or not all(isinstance(string, str) and string for string in found):
        raise ValueError(f'metadata["text"]: stop must be a list of strings that are not empty, got {found!r}')
    return tuple(found)


def _autoreset_mode(metadata: Mapping[str, Any]) -> AutoresetMode:
    mode = metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    try:
        return AutoresetMode(mode)
    except ValueError:
        known = ", ".join(repr(known.value) for known in AutoresetMode)
        raise ValueError(f'metadata["autoreset_mode"] must be one of {known}, got {mode!r}') from None


def _transforms_rewards(envs: Any) -> bool:
    """Return whether one of Gymnasium's wrappers of rewards, or a subclass, is around a vector environment."""
    while isinstance(envs, VectorWrapper):
        if isinstance(envs, VectorRewardWrapper | NormalizeReward):
            return True
        envs = envs.env
    return False


def _tokenizer(envs: VectorEnv) -> Any:
    """Return the tokenizer that made the prompts, or None where the environment shows none."""
    base = envs.unwrapped
    singles = getattr(base, "envs", None)  # SyncVectorEnv keeps its single environments here
    return getattr(singles[0].unwrapped if singles else base, "tokenizer", None)


def codec_of(layout: TextLayout) -> TextCodec:
    """Return the codec of the environment's tokenizer.

    Raises:
        ValueError: the environment shows no tokenizer.
    """
    if layout.tokenizer is None:
        raise ValueError(
            "a guide that reads text needs the environment's tokenizer, but the environment shows no tokenizer"
            " attribute; give it one, or use a guide that writes its tokens"
        )
    return TextCodec(layout.tokenizer)
