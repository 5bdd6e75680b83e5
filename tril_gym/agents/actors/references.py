"""References as token ids: what imitation learns, and an actor that writes them out.

`tokenizer(joiner + text, no special tokens) + EOS`, cut to T tokens; a text that is cut has no EOS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Infos, Trajectories
from tril_gym.models.texts import Texts


class ReferenceTokens:
    """Tokenises references, each text once."""

    def __init__(self, layout: TextLayout) -> None:
        if layout.tokenizer is None:
            raise ValueError("references must be tokenised, but the environment shows no tokenizer attribute")
        self.layout = layout
        self._known: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """The ids of one reference, EOS included where it fits."""
        if text not in self._known:
            ids = self.layout.tokenizer(self.layout.joiner + text, add_special_tokens=False)["input_ids"]
            self._known[text] = [*ids, self.layout.eos_token_ids[0]][: self.layout.max_new_tokens]
        return self._known[text]


def pick(references: Sequence[str], draw: float) -> str:
    """One of several references, by a uniform in [0, 1)."""
    return references[int(draw * len(references))]


def reference_texts(trajectories: Trajectories, tokenize: ReferenceTokens, generator: torch.Generator) -> Texts:
    """The prompts of B texts, each with one of its references, drawn anew: (B, P), (B, T).

    Raises:
        ValueError: an example has no reference.
    """
    _refuse_missing(trajectories.infos)
    draws = torch.rand(len(trajectories), generator=generator, dtype=torch.float64).tolist()
    completions = torch.full_like(trajectories.tokens, -1)
    for row, (info, draw) in enumerate(zip(trajectories.infos, draws, strict=True)):
        ids = tokenize(pick(info["references"], draw))
        completions[row, : len(ids)] = torch.tensor(ids)
    return replace(Texts.of(trajectories.prompts, completions), is_prompt=trajectories.is_prompt)


def _refuse_missing(infos: Infos) -> None:
    missing = [info.get("prompt", "?") for info in infos if not info.get("references")]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(infos)} examples have no references to write, the first is {missing[0]!r};"
            " use data with references, or an algorithm and a guide that need none"
        )


class References:
    """Writes one of a prompt's references: an oracle that can only begin texts, never continue them."""

    def __init__(self) -> None:
        self._tokens: ReferenceTokens | None = None

    def start(self, prompts: Tensor, completions: Tensor, infos: Infos, layout: TextLayout) -> ReferenceWriter:
        """Take up B texts that nobody has written on yet; see `Actor`."""
        if bool((completions >= 0).any()):
            raise ValueError("references can only begin a text, not continue one; roll out with another actor")
        _refuse_missing(infos)
        if self._tokens is None or self._tokens.layout != layout:
            self._tokens = ReferenceTokens(layout)
        return ReferenceWriter(infos, self._tokens)


class ReferenceWriter:
    """Hands out B references token by token; see `Writer`."""

    def __init__(self, infos: Infos, tokens: ReferenceTokens) -> None:
        self.infos, self.tokens = infos, tokens
        self.texts: list[list[int]] | None = None
        self.written = 0

    def next(self, draws: Tensor) -> tuple[Tensor, None]:
        """The next token of every reference; the first call picks which reference that is."""
        if self.texts is None:
            pairs = zip(self.infos, draws.tolist(), strict=True)
            self.texts = [self.tokens(pick(info["references"], draw)) for info, draw in pairs]
        column = [text[self.written] for text in self.texts]
        self.written += 1
        return torch.tensor(column), None

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.infos = [self.infos[row] for row in rows.tolist()]
        if self.texts is not None:
            self.texts = [self.texts[row] for row in rows.tolist()]

    def close(self) -> None:
        """Nothing is held."""
