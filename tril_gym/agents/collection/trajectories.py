"""Finished texts with their rewards: what an iteration learns from.

Prompts are right-aligned and tokens left-aligned, so that each text is contiguous. Padding has id 0 and is recognised
by its mask alone.

B texts, P prompt tokens, T new tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tril_gym.functional.masked import select
from tril_gym.models.texts import Texts

Info = dict[str, Any]
Infos = list[Info]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Trajectories:
    """B finished texts. A mask is True where its name holds; tensors on the CPU."""

    prompts: Tensor  # (B, P) int64, padded on the left with 0
    is_prompt: Tensor  # (B, P) bool
    tokens: Tensor  # (B, T) int64, padded on the right with 0
    is_token: Tensor  # (B, T) bool: a real token (EOS too), not padding
    is_rollin: Tensor  # (B, T) bool: a real token before the switch
    old_logprobs: Tensor  # (B, T) float64 nats, log π_old(token) at collection; 0 on tokens the policy did not write
    rewards: Tensor  # (B, T) float64, paid by the environment for each token, no KL term inside
    terminated: Tensor  # (B,) bool: by EOS or the length limit
    truncated: Tensor  # (B,) bool: by a limit from outside
    switch: Tensor  # (B,) int64: index of the first token of the rollout
    examples: Tensor  # (B,) int64: index of the example of each text; -1 where the environment does not report it
    infos: Infos  # per text, the info of its reset, updated with that of its end
    learn_on: Literal["rollout", "rollin", "switch"]  # the part that the policy wrote and learns from
    ref_logprobs: Tensor | None = None  # (B, T) nats, log π_ref(token), used where the policy wrote
    # (B, T + 1) V before each token and after the last; `collect` fills in those that the rollout's writer knows
    values: Tensor | None = None
    # (B, T) nats, log π(token) of a copy of the policy that wrote, by the pass that training uses; NaN where unknown
    writer_logprobs: Tensor | None = None
    cut_mass: Tensor | None = None  # (B, T) probability that top-k and top-p excluded where the policy wrote
    group: Tensor | None = None  # (B,) int64: equal for the texts of one prompt, which are neighbours
    given: Tensor | None = None  # (B,) bool: a text of others that the policy learns from; None: it has a part in all

    def __len__(self) -> int:
        return self.prompts.shape[0]

    def __repr__(self) -> str:
        rewards, has_rollin = self.total_rewards, (self.switch > 0).double()
        rollins = f", {float(has_rollin.mean()):.0%} with a rollin" if bool(has_rollin.any()) else ""
        spread = f"{float(rewards.mean()):.3f} ± {float(rewards.std(correction=0)):.3f}"
        length = float(self.lengths.double().mean())
        return f"Trajectories({len(self)} texts, reward {spread}, {length:.1f} tokens{rollins})"

    @property
    def texts(self) -> Texts:
        """The ids and masks, as a model reads them."""
        return Texts(self.prompts, self.is_prompt, self.tokens, self.is_token)

    @property
    def lengths(self) -> Tensor:
        """(B,) tokens written, EOS counted."""
        return self.is_token.sum(1)

    @property
    def groups(self) -> Tensor:
        """(B,) int64: the group of each text; without groups each text is one of its own."""
        return torch.arange(len(self)) if self.group is None else self.group

    @property
    def group_size(self) -> int:
        """Texts of each group, as many in all."""
        return 1 if self.group is None or not len(self) else int((self.group == self.group[0]).sum())

    @property
    def is_rollout(self) -> Tensor:
        """(B, T) bool: a real token from the switch on."""
        return self.is_token & ~self.is_rollin

    @property
    def is_last(self) -> Tensor:
        """(B, T) bool: the last real token."""
        return torch.arange(self.tokens.shape[1]) == self.lengths.unsqueeze(1) - 1

    @property
    def is_end(self) -> Tensor:
        """(B, T) bool: the token with which a text ended; none in a text that was cut off."""
        return self.is_last & ~self.is_cut_off.unsqueeze(1)

    @property
    def total_rewards(self) -> Tensor:
        """(B,) what the environment paid for each whole text."""
        return select(self.rewards, self.is_token).sum(1)

    @property
    def is_cut_off(self) -> Tensor:
        """(B,) bool: truncated before its end, so that its last value is bootstrapped."""
        return self.truncated & ~self.terminated

    def ended_with(self, tokens: Sequence[int]) -> Tensor:
        """Return whether each text ends with one of these tokens, such as EOS: (B,) bool."""
        return (torch.isin(self.tokens, torch.tensor(tokens)) & self.is_last).any(1)

    def ended_by_themselves(self, tokens: Sequence[int]) -> Tensor:
        """Return whether each text ends with one of these tokens, or as its info says at a stop string: (B,) bool."""
        has_stopped = [info.get("finish_reason") == "stop" for info in self.infos]
        return self.ended_with(tokens) | torch.tensor(has_stopped, dtype=torch.bool)

    @property
    def wrote(self) -> Tensor:
        """(B, T) bool: a token written by the policy in training (w in the notation of the papers page)."""
        return self._taught if self.given is None else self._taught & ~self.given.unsqueeze(1)

    @property
    def _taught(self) -> Tensor:
        """(B, T) bool: a token of the part that the policy learns from."""
        return self.is_rollout if self.learn_on == "rollout" else self.is_rollin

    @property
    def own(self) -> Trajectories:
        """The texts that the policy has a part in: all that are not given."""
        return self if self.given is None else self[(~self.given).nonzero().squeeze(1)]

    @property
    def learn(self) -> Tensor:
        """(B, T) bool: a token that the policy learns from (u)."""
        if self.learn_on != "switch":
            return self._taught
        columns = torch.arange(self.tokens.shape[1])
        return self.is_rollin & (columns == self.switch.unsqueeze(1) - 1)

    @property
    def scores(self) -> dict[str, Tensor]:
        """Score of each reward term by name, (B,); NaN where a text has none, because it was truncated."""
        names = {name: None for info in self.infos for name in info.get("scores", {})}  # in order, without repeats
        nothing = float("nan")
        return {
            name: torch.tensor(
                [float(info.get("scores", {}).get(name, nothing)) for info in self.infos], dtype=torch.float64
            )
            for name in names
        }

    def __getitem__(self, rows: Tensor) -> Trajectories:
        """Return the texts of some rows: a tensor of indices, or a mask (B,) of those to keep."""
        rows = torch.arange(len(self))[rows]
        picked = {
            field.name: getattr(self, field.name)[rows]
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        return replace(self, **picked, infos=[self.infos[row] for row in rows.tolist()])

    @staticmethod
    def cat(parts: Sequence[Trajectories]) -> Trajectories:
        """Concatenate trajectories of the same plan and layout; groups of different parts stay apart."""
        parts = _with_groups_apart(parts)
        if any(part.cut_mass is not None for part in parts):  # nothing was cut where it is None
            parts = [part if part.cut_mass is not None else _nothing_cut(part) for part in parts]
        if any(part.given is not None for part in parts):
            parts = [part if part.given is not None else _none_given(part) for part in parts]
        columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Trajectories)}
        joined: dict[str, Any] = {
            name: torch.cat(found) if all(isinstance(part, Tensor) for part in found) else None
            for name, found in columns.items()
            if any(isinstance(part, Tensor) for part in found)
        }
        return replace(parts[0], **joined, infos=[info for part in parts for info in part.infos])


def _nothing_cut(part: Trajectories) -> Trajectories:
    return replace(part, cut_mass=torch.zeros_like(part.old_logprobs))


def _none_given(part: Trajectories) -> Trajectories:
    return replace(part, given=torch.zeros_like(part.terminated))


def _with_groups_apart(parts: Sequence[Trajectories]) -> list[Trajectories]:
    """Return the same texts, with groups numbered on from part to part where they have any."""
    found, offset = [], 0
    for part in parts:
        group = part.group
        found.append(part if group is None else replace(part, group=group + offset))
        offset += 0 if group is None else 1 + int(group.max())
    return found


def plain_texts(trajectories: Trajectories, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Return some texts in full as plain data, with None for what the environment's info lacks."""
    return [
        {
            "example": int(trajectories.examples[row]),
            "prompt": trajectories.infos[row].get("prompt"),
            "completion": trajectories.infos[row].get("completion"),
            "references": trajectories.infos[row].get("references"),
            "reward": float(trajectories.rewards[row].sum()),
            "rollin": int(trajectories.switch[row]),
        }
        for row in rows
    ]


def minibatches(
    texts: int,
    *,
    epochs: int,
    size: int,
    generator: torch.Generator,
    lengths: Tensor | None = None,
    group_size: int = 1,
) -> Iterable[Tensor]:
    """Yield the rows of each minibatch, (size,) int64, shuffled in every epoch.

    Args:
        texts: number of texts.
        epochs: passes over all texts.
        size: texts per minibatch; one of each epoch may have fewer.
        generator: shuffles.
        lengths: (texts,) batch texts of similar length, those of equal length at random, and shuffle the batches. None:
            batch any texts.
        group_size: neighbours that stay together, as many in every group; a minibatch has one group at least.
    """
    groups = torch.arange(texts).view(-1, group_size)
    size = max(1, size // group_size)
    if lengths is not None:
        lengths = lengths[groups].sum(1)
    for _ in range(epochs):
        rows = torch.randperm(len(groups), generator=generator)
        if lengths is None:
            yield from (groups[part].flatten() for part in rows.split(size))
            continue
        alike = rows[lengths[rows].argsort(stable=True)].split(size)
        yield from (groups[alike[at]].flatten() for at in torch.randperm(len(alike), generator=generator).tolist())
