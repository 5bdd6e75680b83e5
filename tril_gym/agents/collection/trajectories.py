"""Texts as tensors: what a model reads (`Texts`) and what an iteration learns from (`Trajectories`).

Prompts lie at the right end of their columns, tokens at the left end of theirs, so that a text is one piece in the
middle. Padding is id 0 and is known by its mask alone: no id has a meaning of its own.

B texts, P prompt tokens, T new tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tril_gym.models.texts import Texts

Info = dict[str, Any]
Infos = list[Info]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectories:
    """B finished texts. A mask is True where its name holds; tensors on the CPU."""

    prompts: Tensor  # (B, P) int64, padded on the left with 0
    is_prompt: Tensor  # (B, P) bool
    tokens: Tensor  # (B, T) int64, padded on the right with 0
    is_token: Tensor  # (B, T) bool: a real token (EOS too), not padding
    is_rollin: Tensor  # (B, T) bool: a real token before the switch
    old_logprobs: Tensor  # (B, T) float64 nats, log π_old(token) at collection; 0 on tokens the policy did not write
    rewards: Tensor  # (B, T) float64, what the environment paid for each token, no KL term inside
    terminated: Tensor  # (B,) bool: by EOS or the length limit
    truncated: Tensor  # (B,) bool: by a limit from outside
    switch: Tensor  # (B,) int64: index of the first token of the rollout
    examples: Tensor  # (B,) int64: which example each text was written for; -1 where the environment does not say
    infos: Infos  # per text, what the environment said at its reset and its end, the end's words winning
    learn_on: Literal["rollout", "rollin", "switch"]  # which part the policy wrote and learns from
    ref_logprobs: Tensor | None = None  # (B, T) nats, log π_ref(token), read where the policy wrote
    values: Tensor | None = (
        None  # (B, T + 1) V before each token and after the last; `collect` knows those of written tokens
    )

    def __len__(self) -> int:
        return self.prompts.shape[0]

    @property
    def texts(self) -> Texts:
        """The ids and their masks, as a model reads them."""
        return Texts(self.prompts, self.is_prompt, self.tokens, self.is_token)

    @property
    def lengths(self) -> Tensor:
        """(B,) tokens written, EOS counted."""
        return self.is_token.sum(1)

    @property
    def is_rollout(self) -> Tensor:
        """(B, T) bool: a real token from the switch on."""
        return self.is_token & ~self.is_rollin

    @property
    def is_cut_off(self) -> Tensor:
        """(B,) bool: not finished, so that the text still has a future: a limit met at the last token cuts nothing."""
        return self.truncated & ~self.terminated

    @property
    def wrote(self) -> Tensor:
        """(B, T) bool: a token that the policy in training wrote (w in the notation of the papers page)."""
        return self.is_rollout if self.learn_on == "rollout" else self.is_rollin

    @property
    def learn(self) -> Tensor:
        """(B, T) bool: a token that teaches the policy (u)."""
        if self.learn_on != "switch":
            return self.wrote
        columns = torch.arange(self.tokens.shape[1])
        return self.is_rollin & (columns == self.switch.unsqueeze(1) - 1)

    @property
    def scores(self) -> dict[str, Tensor]:
        """Each reward term by name, (B,); NaN where a text has none (it was truncated)."""
        names = {name: None for info in self.infos for name in info.get("scores", {})}  # in order, without repeats
        nothing = float("nan")
        return {
            name: torch.tensor(
                [float(info.get("scores", {}).get(name, nothing)) for info in self.infos], dtype=torch.float64
            )
            for name in names
        }

    def __getitem__(self, rows: Tensor) -> Trajectories:
        """The texts of some rows, a tensor of indices."""
        picked = {
            field.name: getattr(self, field.name)[rows]
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        return replace(self, **picked, infos=[self.infos[row] for row in rows.tolist()])

    @staticmethod
    def cat(parts: Sequence[Trajectories]) -> Trajectories:
        """One after another; all of the same plan and layout."""
        columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Trajectories)}
        joined: dict[str, Any] = {
            name: torch.cat(found) if all(isinstance(part, Tensor) for part in found) else None
            for name, found in columns.items()
            if any(isinstance(part, Tensor) for part in found)
        }
        return replace(parts[0], **joined, infos=[info for part in parts for info in part.infos])


def minibatches(
    texts: int, *, epochs: int, size: int, generator: torch.Generator, lengths: Tensor | None = None
) -> Iterable[Tensor]:
    """Rows of each minibatch, (size,) int64, shuffled anew in every epoch.

    Args:
        texts: how many there are.
        epochs: how often each comes.
        size: texts of a minibatch; one of each epoch may have fewer.
        generator: shuffles.
        lengths: (texts,) makes minibatches of texts of like length, in random order; those of the same length meet at
            random. None: any texts meet.
    """
    for _ in range(epochs):
        rows = torch.randperm(texts, generator=generator)
        if lengths is None:
            yield from rows.split(size)
            continue
        alike = rows[lengths[rows].argsort(stable=True)].split(size)
        yield from (alike[place] for place in torch.randperm(len(alike), generator=generator).tolist())
