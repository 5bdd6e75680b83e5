"""What an agent must know of an environment: `metadata["text"]`, read once and checked.

Observations are (P + T,) integers: the prompt right-aligned in the first P columns, the completion so far in the
other T, -1 where there is no token. Nothing here knows which environment it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gymnasium.vector import AutoresetMode, VectorEnv

from tril_gym.models.text_codec import TextCodec


@dataclass(frozen=True, kw_only=True)
class TextLayout:
    """Sizes in tokens, ids, and what the environment offers. See `docs/environments.md` for the metadata."""

    max_prompt_length: int  # P
    max_new_tokens: int  # T
    vocab_size: int  # V
    eos_token_ids: tuple[int, ...]
    min_new_tokens: int = 0
    num_examples: int | None = None
    dense_reward: bool = False
    restart: str | None = None  # "rows": any state of any row; rows that ended then stand idle in DISABLED
    autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP
    joiner: str = " "  # between a prompt and a completion, where text is tokenised
    tokenizer: Any = field(default=None, compare=False, repr=False)  # None: a foreign environment without one

    @property
    def keeps_ended_rows(self) -> bool:
        """Rows that ended stand still until they are reset, so that a batch can be written to its end."""
        return self.restart == "rows" and self.autoreset_mode == AutoresetMode.DISABLED

    @staticmethod
    def of(envs: VectorEnv) -> TextLayout:
        """Read the metadata of a vector environment.

        Raises:
            TypeError: `envs` is no vector environment.
            ValueError: the metadata is missing or incomplete.
        """
        if not isinstance(envs, VectorEnv):
            raise TypeError(
                f"agents step vector environments, got {type(envs).__name__}; use gym.make_vec(id, num_envs=...)"
                " or wrap single ones in gymnasium.vector.SyncVectorEnv"
            )
        metadata = envs.metadata
        text = metadata.get("text")
        if not isinstance(text, Mapping):
            raise ValueError(
                f'{envs} has no metadata["text"], which tells an agent its sizes and its EOS;'
                " docs/environments.md lists the keys a text environment must have"
            )
        required = ("max_prompt_length", "max_new_tokens", "vocab_size", "eos_token_ids")
        missing = [key for key in required if key not in text]
        if missing:
            raise ValueError(f'metadata["text"] lacks {", ".join(missing)}; it must have {", ".join(required)}')
        optional = ("min_new_tokens", "num_examples", "dense_reward", "restart", "joiner")
        return TextLayout(
            max_prompt_length=int(text["max_prompt_length"]),
            max_new_tokens=int(text["max_new_tokens"]),
            vocab_size=int(text["vocab_size"]),
            eos_token_ids=tuple(int(i) for i in text["eos_token_ids"]),
            **{key: text[key] for key in optional if key in text},
            autoreset_mode=AutoresetMode(metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)),
            tokenizer=_tokenizer(envs),
        )


def _tokenizer(envs: VectorEnv) -> Any:
    """The tokenizer that made the prompts, or None where the environment has none to show."""
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
