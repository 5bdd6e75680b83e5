"""Guides that meet the policy as text: a plain callable, or a language model with another tokenizer.

What stands of a text is decoded, the guide says in words how it goes on to its end, and these are tokenised once, with
the environment's tokenizer, and handed out token by token.

B texts, P prompt tokens, T new tokens.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.generation import write_completions
from tril_gym.agents.collection.layout import TextLayout, codec_of
from tril_gym.agents.collection.plan import Actor
from tril_gym.agents.collection.trajectories import Infos
from tril_gym.models.backbone import positions_of
from tril_gym.models.text_codec import TextCodec

log = logging.getLogger(__name__)

# (prompts, what stands of the completions) -> how each of them goes on to its end
TextFunction = Callable[[list[str], list[str]], Sequence[str]]
# the same, with (B,) uniforms in [0, 1), the only randomness that it may use
ContinueTexts = Callable[[list[str], list[str], Tensor], Sequence[str]]


class TextWriter:
    """Has a guide say how B texts go on, and hands that out token by token; see `Writer`.

    Args:
        continue_texts: asked once, at the first token.
        prompts: (B, P), -1 in empty cells.
        completions: (B, T), -1 in empty cells.
        infos: one dictionary a text; its `prompt`, where there is one, is what the guide reads.
        layout: the environment's sizes.
    """

    def __init__(
        self, continue_texts: ContinueTexts, prompts: Tensor, completions: Tensor, infos: Infos, layout: TextLayout
    ) -> None:
        self.continue_texts, self.layout, self.spelling = continue_texts, layout, codec_of(layout)
        rows = zip(prompts.tolist(), infos, strict=True)
        self.prompts = [info.get("prompt") or self.spelling.decode(_real(ids)) for ids, info in rows]
        self.begun = [_real(ids) for ids in completions.tolist()]
        self.tokens: list[list[int]] | None = None
        self.written = 0

    def next(self, draws: Tensor) -> tuple[Tensor, None]:
        """The next token of every text."""
        if self.tokens is None:
            self.tokens = self._write(draws)
        column = [tokens[self.written] for tokens in self.tokens]
        self.written += 1
        return torch.tensor(column), None

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        kept = rows.tolist()
        self.prompts, self.begun = [self.prompts[row] for row in kept], [self.begun[row] for row in kept]
        if self.tokens is not None:
            self.tokens = [self.tokens[row] for row in kept]

    def close(self) -> None:
        """Nothing is held."""

    def _write(self, draws: Tensor) -> list[list[int]]:
        completions = [self.spelling.text(ids) for ids in self.begun]
        texts = self.continue_texts(self.prompts, completions, draws)
        return [self._spelled(*row) for row in zip(texts, completions, self.begun, strict=True)]

    def _spelled(self, text: str, completion: str, begun: list[int]) -> list[int]:
        """The ids of one continuation, EOS included where it fits. EOS in words ends the text, too."""
        layout = self.layout
        for name in layout.tokenizer.convert_ids_to_tokens(list(layout.eos_token_ids)):
            text = text.partition(name)[0] if name else text
        if not completion and text and not text.startswith(layout.joiner):
            text = layout.joiner + text
        ids = [*self.spelling.ids(text, after=begun), layout.eos_token_ids[0]]
        return ids[: layout.max_new_tokens - len(begun)]


def _real(ids: list[int]) -> list[int]:
    return [token for token in ids if token >= 0]


class CallableGuide:
    """A function of texts that begins and finishes texts; `Guide.from_callable` makes one."""

    def __init__(self, f: TextFunction, *, retries: int, pause: float) -> None:
        if not callable(f):
            raise TypeError(f"a callable guide is a function of prompts and completions, got {f!r}")
        if retries < 0:
            raise ValueError(f"retries must not be negative, got {retries}; 0 calls once, 2 is usual")
        if not pause >= 0:
            raise ValueError(f"pause must not be negative, got {pause} seconds; 1 is usual")
        self.f, self.retries, self.pause = f, retries, pause
        self.name = f"{getattr(f, '__module__', '?')}.{getattr(f, '__qualname__', type(f).__qualname__)}"

    def start(self, prompts: Tensor, completions: Tensor, infos: Infos, layout: TextLayout) -> TextWriter:
        """Take up texts where they stand; see `Actor`."""
        return TextWriter(self._go_on, prompts, completions, infos, layout)

    def check(self, layout: TextLayout) -> None:
        """Refuse an environment that this guide cannot write in."""
        codec_of(layout)

    def reads_text(self, layout: TextLayout) -> bool:
        """See `ReadsText`."""
        return True

    def _go_on(self, prompts: list[str], completions: list[str], draws: Tensor) -> Sequence[str]:
        for attempt in range(self.retries + 1):
            try:
                found = self.f(list(prompts), list(completions))
                break
            except Exception as error:
                failed = f"the guide {self.name} raised {type(error).__name__}: {error}"
                if attempt == self.retries:
                    raise RuntimeError(
                        f"{failed} (attempt {attempt + 1} of {self.retries + 1}, a batch of {len(prompts)} texts);"
                        " mend it, or have it called more often: Guide.from_callable(f, retries=...)"
                    ) from error
                seconds = self.pause * 2**attempt
                log.warning("%s; it is called again in %g s", failed, seconds)
                time.sleep(seconds)
        self._check_texts(found, len(prompts))
        return found

    def _check_texts(self, found: Any, count: int) -> None:
        """Refuse what is not one string a text: no second call would mend that."""
        if isinstance(found, str) or not isinstance(found, Sequence):
            raise TypeError(f"the guide {self.name} must return a list of {count} strings, got {found!r:.200}")
        if len(found) != count:
            raise ValueError(
                f"the guide {self.name} must return one string a text, {count} in all, got {len(found)}: {found!r:.200}"
            )
        for number, text in enumerate(found):
            if not isinstance(text, str):
                raise TypeError(f"the guide {self.name} must return strings, got {text!r:.200} as text {number}")


class CrossTokenizerBridge:
    """What a language model with a tokenizer of its own reads and writes of an environment's texts.

    It has room for 2 T of its own tokens, or as many as it has positions for.

    Args:
        policy: the language model, with its tokenizer.
        layout: the environment's sizes.

    Raises:
        ValueError: the model has no EOS, or too few positions.
    """

    def __init__(self, policy: LMPolicy, layout: TextLayout) -> None:
        self.tokenizer, self.spelling = policy.tokenizer, TextCodec(policy.tokenizer)
        new_tokens = _room(policy, layout)
        self.layout = replace(
            layout,
            vocab_size=policy.vocab_size,
            eos_token_ids=_eos_token_ids(policy),
            max_new_tokens=new_tokens,
            tokenizer=policy.tokenizer,
        )
        positions = positions_of(policy.model.config)
        shared = 0 if policy.model.config.is_encoder_decoder else new_tokens
        self.prompt_room = None if positions is None else positions - shared

    def continue_texts(self, guide: Actor, prompts: list[str], completions: list[str], draws: Tensor) -> list[str]:
        """How a guide that writes this model's tokens goes on with B texts."""
        begun = np.full((len(prompts), self.layout.max_new_tokens), -1, dtype=np.int64)
        for row, text in enumerate(completions):
            ids = self.spelling.ids(text)[: begun.shape[1]]
            begun[row, : len(ids)] = ids
        infos: Infos = [{} for _ in prompts]
        uniforms = _uniforms(draws, begun.shape[1])
        tokens, _ = write_completions(guide, self._prompts(prompts), infos, self.layout, uniforms, begun)
        return [self._text(row).removeprefix(self._text(first)) for row, first in zip(tokens, begun, strict=True)]

    def _prompts(self, texts: list[str]) -> Tensor:
        """(B, P') with the special tokens that the model's prompts have; the tokenizer cuts one that is too long."""
        room = self.prompt_room
        rows = self.tokenizer(texts, truncation=room is not None, max_length=room, verbose=False)["input_ids"]
        width = max(map(len, rows))
        return torch.tensor([[-1] * (width - len(row)) + list(row) for row in rows])

    def _text(self, tokens: np.ndarray) -> str:
        ids = [token for token in tokens.tolist() if token >= 0 and token not in self.layout.eos_token_ids]
        return self.spelling.text(ids)


def _room(policy: LMPolicy, layout: TextLayout) -> int:
    """2 T tokens, or as many as the model has positions for beside a prompt of P, but at least T."""

    def check(new_tokens: int) -> None:
        policy.backbone.check_room(policy.model, layout.max_prompt_length, new_tokens)

    check(layout.max_new_tokens)
    for new_tokens in range(2 * layout.max_new_tokens, layout.max_new_tokens, -1):
        try:
            check(new_tokens)
        except ValueError:
            continue
        return new_tokens
    return layout.max_new_tokens


def _eos_token_ids(policy: LMPolicy) -> tuple[int, ...]:
    """What the model says that ends its texts, else what its tokenizer says."""
    said = policy.model.generation_config.eos_token_id
    said = policy.tokenizer.eos_token_id if said is None else said
    found = tuple(said) if isinstance(said, list | tuple) else (said,)
    if not found or any(token is None or not 0 <= token < policy.vocab_size for token in found):
        raise ValueError(
            f"its model names no EOS among its {policy.vocab_size} tokens, got {said}, so its texts could not end; set"
            " model.generation_config.eos_token_id"
        )
    return found


def _uniforms(draws: Tensor, count: int) -> Tensor:
    """(B,) uniforms -> (B, count): each text's own numbers follow from its draw, whatever it is batched with."""
    seeds = (draws.double() * 2**53).long().tolist()
    rows = [torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    return torch.stack(rows)
