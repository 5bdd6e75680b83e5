"""Guides that read and write text: a function of texts, and the writer that it shares with foreign language models.

What is written so far is decoded, the guide returns the rest of each text as a string, and this is tokenised once, with
the environment's tokenizer, and handed out token by token.

B texts, T new tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tril_gym.agents.actors.whole_text_writer import WholeTextWriter, WrittenTexts
from tril_gym.agents.collection.actor import Actor
from tril_gym.agents.collection.layout import TextLayout, codec_of
from tril_gym.agents.collection.trajectories import Infos
from tril_gym.models.texts import Texts
from tril_gym.utils.attempts import attempt, check_attempts
from tril_gym.utils.text_codec import TextCodec

# (prompts, completions so far) -> the rest of each completion
TextFunction = Callable[[list[str], list[str]], Sequence[str]]
# the same, with (B,) uniforms in [0, 1), the only randomness that it may use
ContinueTexts = Callable[[list[str], list[str], Tensor], Sequence[str]]


@dataclass(frozen=True)
class BegunText:
    """A text as a guide reads it."""

    prompt: str
    completion: str  # as far as it is written
    ids: list[int]  # of the completion

    @staticmethod
    def read(texts: Texts, infos: Infos, codec: TextCodec) -> list[BegunText]:
        """Return B texts; the `prompt` of an info, where there is one, is what a guide reads."""
        begun = [texts.completion_ids(row) for row in range(len(texts))]
        prompts = [info.get("prompt") or codec.decode(texts.prompt_ids(row)) for row, info in enumerate(infos)]
        return [BegunText(prompt, codec.text(ids), ids) for prompt, ids in zip(prompts, begun, strict=True)]


def text_writer(continue_texts: ContinueTexts, texts: Texts, infos: Infos, layout: TextLayout) -> WholeTextWriter:
    """Return a writer for a guide that continues B texts as strings.

    Args:
        continue_texts: called once, at the first token.
        texts: prompts and what has been written after them.
        infos: one dictionary per text; its `prompt`, where there is one, is what the guide reads.
        layout: the environment's sizes.
    """
    codec = codec_of(layout)
    begun = BegunText.read(texts, infos, codec)

    def write_texts(rows: list[int], draws: Tensor) -> WrittenTexts:
        chosen = [begun[row] for row in rows]
        found = continue_texts([text.prompt for text in chosen], [text.completion for text in chosen], draws)
        return WrittenTexts([rest_ids(codec, layout, rest, text) for rest, text in zip(found, chosen, strict=True)])

    return WholeTextWriter(write_texts, len(infos))


def rest_ids(codec: TextCodec, layout: TextLayout, rest: str, begun: BegunText) -> list[int]:
    """Return the ids of the rest of a text, EOS included where it fits. The name of EOS in it ends the text, too."""
    for name in layout.tokenizer.convert_ids_to_tokens(list(layout.eos_token_ids)):
        rest = rest.partition(name)[0] if name else rest
    if not begun.completion and rest and not rest.startswith(layout.joiner):
        rest = layout.joiner + rest
    ids = [*codec.ids(rest, after=begun.ids), layout.eos_token_ids[0]]
    return ids[: layout.max_new_tokens - len(begun.ids)]


class CallableGuide(Actor):
    """A function of texts as a guide; `Guide.from_callable` makes one."""

    def __init__(self, f: TextFunction, *, retries: int, pause: float) -> None:
        if not callable(f):
            raise TypeError(f"a callable guide is a function of prompts and completions, got {f!r}")
        check_attempts(retries, pause, None)
        self.f, self.retries, self.pause = f, retries, pause
        self.name = f"{getattr(f, '__module__', '?')}.{getattr(f, '__qualname__', type(f).__qualname__)}"

    def __repr__(self) -> str:
        return f"Guide.from_callable({self.name})"

    def start(self, texts: Texts, infos: Infos, layout: TextLayout) -> WholeTextWriter:
        """Continue texts where they stop; see `Actor`."""
        return text_writer(self._continue_texts, texts, infos, layout)

    def check(self, layout: TextLayout) -> None:
        """Raise `ValueError` for an environment without a tokenizer."""
        codec_of(layout)

    def reads_text(self, layout: TextLayout) -> bool:
        """Return True: a function always reads text."""
        return True

    def _continue_texts(self, prompts: list[str], completions: list[str], draws: Tensor) -> Sequence[str]:
        def call() -> Sequence[str]:
            return self.f(list(prompts), list(completions))

        try:
            found = attempt(call, what=f"the guide {self.name}", retries=self.retries, pause=self.pause, at_once=())
        except Exception as error:
            calls = self.retries + 1
            raise RuntimeError(
                f"the guide {self.name} raised {type(error).__name__}: {error} (attempt {calls} of {calls}, a batch of"
                f" {len(prompts)} texts); correct it, or allow more attempts: Guide.from_callable(f, retries=...)"
            ) from error
        self._check_texts(found, len(prompts))
        return found

    def _check_texts(self, found: Any, count: int) -> None:
        """Refuse anything but one string per text; another call would return the same."""
        if isinstance(found, str) or not isinstance(found, Sequence):
            raise TypeError(f"the guide {self.name} must return a list of {count} strings, got {found!r:.200}")
        if len(found) != count:
            raise ValueError(
                f"the guide {self.name} must return one string per text, {count} in all, got {len(found)}:"
                f" {found!r:.200}"
            )
        for number, text in enumerate(found):
            if not isinstance(text, str):
                raise TypeError(f"the guide {self.name} must return strings, got {text!r:.200} as text {number}")
