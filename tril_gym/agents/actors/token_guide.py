"""A guide that is a function of token ids: a rule, a table of n-grams, the optimum of a toy environment.

B texts, T new tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from tril_gym.agents.collection.actor import Actor, Writer
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Infos
from tril_gym.models.texts import Texts

NextTokens = Callable[[Texts, Tensor], Tensor]


class TokenGuide(Actor):
    """Calls a function for each next token.

    Args:
        next_tokens: maps B texts and (B,) uniforms, its only randomness, to the next tokens (B,) int64.
    """

    def __init__(self, next_tokens: NextTokens) -> None:
        self.next_tokens = next_tokens

    def start(self, texts: Texts, infos: Infos, layout: TextLayout) -> TokenWriter:
        """Continue texts where they stop; see `Actor`."""
        return TokenWriter(self.next_tokens, texts)


class TokenWriter(Writer):
    """Writes B texts; see `Writer`."""

    def __init__(self, next_tokens: NextTokens, texts: Texts) -> None:
        self.next_tokens, self.texts = next_tokens, texts

    def next(self, draws: Tensor) -> tuple[Tensor, None]:
        """Write one token on every text."""
        texts = self.texts
        tokens, column = self.next_tokens(texts, draws), texts.lengths.unsqueeze(1)
        self.texts = replace(
            texts,
            tokens=texts.tokens.scatter(1, column, tokens.unsqueeze(1)),
            is_token=texts.is_token.scatter(1, column, True),
        )
        return tokens, None

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only."""
        self.texts = self.texts[rows]
