"""Tokenised prompts. Each prompt is tokenised once per process, when it is first drawn; all environments share the row.

N examples, P prompt tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tril_gym.data.example import Example
from tril_gym.data.examples import Examples
from tril_gym.envs.arrays import Ids
from tril_gym.utils.chats import ChatFormat, Message
from tril_gym.utils.tokenization import encode, special_tokens_of_prompts

NO_CHAT = ChatFormat()


class PromptTable:
    """The N prompts, aligned right in P columns, -1 where there is no token.

    Args:
        examples: with the prompts.
        tokenizer: also gives the special tokens around a prompt.
        max_prompt_length: P.
        truncation_side: the side on which a prompt that is too long is cut; a chat loses its beginning.
        vocab_size: V.
        keeps_eos: whether a prompt ends in EOS where the tokenizer puts one there.
        chat: how prompts become chats.
        turn_marks: how the turns of a dialogue begin; on the left a prompt is cut where a turn begins.
    """

    def __init__(
        self,
        examples: Examples,
        tokenizer: Any,
        *,
        max_prompt_length: int,
        truncation_side: str,
        vocab_size: int,
        keeps_eos: bool = True,
        chat: ChatFormat = NO_CHAT,
        turn_marks: tuple[str, ...] = (),
    ) -> None:
        self.examples, self.tokenizer, self.chat = examples, tokenizer, chat
        self._mark = re.compile("|".join(map(re.escape, turn_marks))) if turn_marks else None
        self.truncation_side, self.vocab_size = truncation_side, vocab_size
        self._before, self._after = special_tokens_of_prompts(tokenizer, keeps_eos=keeps_eos)
        self.ends_in_eos = tokenizer.eos_token_id in self._after and not chat.is_used
        self._room = max_prompt_length - len(self._before) - len(self._after)
        if self._room < 1:
            raise ValueError(
                f"max_prompt_length must leave room for a token besides the {len(self._before + self._after)} special"
                f" ones of the tokenizer, got {max_prompt_length}"
            )
        # Rows are written when they are first read, so prompts that are never drawn use no physical memory.
        self._tokens = np.empty((len(examples), max_prompt_length), dtype=np.int32)
        self._is_tokenised = np.zeros(len(examples), dtype=bool)

    def rows(self, indices: Ids) -> Ids:
        """Return the prompts of n examples, (n,) -> (n, P), as a new array."""
        for index in np.unique(indices[~self._is_tokenised[indices]]).tolist():
            tokens = self._tokenise(index)
            self._tokens[index] = -1
            self._tokens[index, -len(tokens) :] = tokens
            self._is_tokenised[index] = True
        return self._tokens[indices].astype(np.int64)

    def text(self, index: int) -> str:
        """Return the prompt of an example as infos show it."""
        return self.shown(self.examples[index]).prompt

    def shown(self, example: Example) -> Example:
        """Return any example as infos show it: a chat with its system message, rendered by the tokenizer's template."""
        messages = self.chat.messages(example.prompt, example.messages)
        if not messages:
            return example
        return replace(example, prompt=self.chat.render(self.tokenizer, messages), suffix="", messages=messages)

    def _tokenise(self, index: int) -> list[int]:
        example = self.examples[index]
        if messages := self.chat.messages(example.prompt, example.messages):
            return self._tokenise_chat(messages, index)
        body = encode(self.tokenizer, example.prompt)
        if len(body) > self._room:
            body = self._truncate(example, index)
        if not body:
            raise ValueError(
                f"the prompt of example {index} of {self.examples.source} has no tokens: {example.prompt!r}"
            )
        return self._checked(self._before + body + self._after, index)

    def _tokenise_chat(self, messages: Sequence[Message], index: int) -> list[int]:
        """Return the tokens of a chat, whose template has all special tokens; one that is too long loses the first."""
        tokens = self.chat.encode(self.tokenizer, messages)
        # On either side: its end is where the assistant begins to write.
        return self._checked(tokens[-self._tokens.shape[1] :], index)

    def _checked(self, tokens: list[int], index: int) -> list[int]:
        if max(tokens) >= self.vocab_size:
            raise ValueError(
                f"the prompt of example {index} has token {max(tokens)}, but vocab_size is {self.vocab_size};"
                " vocab_size must cover every id of the tokenizer"
            )
        return tokens

    def _truncate(self, example: Example, index: int) -> list[int]:
        """Return the tokens of a prompt, cut on the truncation side; its suffix is kept.

        A dialogue is cut on the left where a turn begins. If the last turn alone is too long, its mark is kept.
        """
        body, mark = example.prompt[: len(example.prompt) - len(example.suffix)], ""
        for turn in self._mark.finditer(body) if self._mark and self.truncation_side == "left" else ():
            tokens = encode(self.tokenizer, example.prompt[turn.start() :])
            if len(tokens) <= self._room:
                return tokens
            mark = turn[0]
        head = encode(self.tokenizer, body.rpartition(mark)[2] if mark else body)
        first, tail = (encode(self.tokenizer, text) if text else [] for text in (mark, example.suffix))
        keep = self._room - len(first) - len(tail)
        if keep < 1:
            raise ValueError(
                f"max_prompt_length is too short for example {index}: it leaves room for {self._room} tokens, and"
                f" the end of the prompt that must be kept, {mark + example.suffix!r}, has {len(first + tail)}"
            )
        return first + (head[:keep] if self.truncation_side == "right" else head[-keep:]) + tail


def prompt_table(examples: Examples, tokenizer: Any, **settings: Any) -> PromptTable:
    """Return the table of these settings, those of `PromptTable`, which environments with the same examples share."""
    # The table holds the tokenizer, so no other object can get its id.
    key = (id(tokenizer), *sorted(settings.items()))
    if key not in examples.prompt_tables:
        examples.prompt_tables[key] = PromptTable(examples, tokenizer, **settings)
    table: PromptTable = examples.prompt_tables[key]
    return table
