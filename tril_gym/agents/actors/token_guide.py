"""A guide that is a function of token ids: a rule, a table of n-grams, the optimum of a toy world.

B texts, P prompt tokens, T new tokens.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Infos

NextTokens = Callable[[Tensor, Tensor, Tensor], Tensor]


class TokenGuide:
    """Asks a function for each next token.

    Args:
        next_tokens: of prompts (B, P), completions so far (B, T), both int64 with -1 in empty cells, and uniforms (B,),
            all its randomness, gives the next tokens (B,) int64.
    """

    def __init__(self, next_tokens: NextTokens) -> None:
        self.next_tokens = next_tokens

    def start(self, prompts: Tensor, completions: Tensor, infos: Infos, layout: TextLayout) -> TokenWriter:
        """Take up texts where they stand; see `Actor`."""
        return TokenWriter(self.next_tokens, prompts, completions.clone())


class TokenWriter:
    """Writes on B texts; see `Writer`."""

    def __init__(self, next_tokens: NextTokens, prompts: Tensor, completions: Tensor) -> None:
        self.next_tokens, self.prompts, self.completions = next_tokens, prompts, completions

    def next(self, draws: Tensor) -> tuple[Tensor, None]:
        """One token on every text."""
        tokens = self.next_tokens(self.prompts, self.completions, draws)
        column = (self.completions >= 0).sum(1, keepdim=True)
        self.completions.scatter_(1, column, tokens.unsqueeze(1))
        return tokens, None

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.prompts, self.completions = self.prompts[rows], self.completions[rows]

    def close(self) -> None:
        """Nothing is held."""
