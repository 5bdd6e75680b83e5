"""Who writes which part of a text, and which part teaches: all that the RL algorithms differ in.

A text is written in two parts. The **rollin** goes from the prompt to the switch, the **rollout** from the switch to
the end. PPO has no rollin; PPO++ lets a guide roll in; AggreVaTeD lets the guide roll out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Infos


class Writer(Protocol):
    """Writes on B texts at once, one token of each a call, until its caller drops them.

    One that promises to end no text before so many tokens has them as `min_new_tokens`. One that knows what the texts
    are worth has, after `next`, `values`: (B,) of each as it stood before that token.
    """

    def next(self, draws: Tensor) -> tuple[Tensor, Tensor | None]:
        """Write one token on every text.

        Args:
            draws: (B,) float64 uniforms in [0, 1), the only randomness a writer may use.

        Returns:
            tokens (B,) int64, and their log-probabilities (B,) in nats or None where the writer has none.
        """

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, (B',) int64 indices, in their order; the others have ended."""

    def close(self) -> None:
        """Give back what the writer holds."""


@runtime_checkable
class Actor(Protocol):
    """Writes texts: a language model, a guide, a table of references, a callable, a person."""

    def start(self, prompts: Tensor, completions: Tensor, infos: Infos, layout: TextLayout) -> Writer:
        """Take up B texts where they stand.

        Args:
            prompts:     (B, P) int64, right-aligned, -1 in empty cells.
            completions: (B, T) int64, left-aligned, -1 in empty cells; lengths may differ.
            infos:       one dictionary a text: `prompt`, `references`, `example` as the environment gave them.
            layout:      the environment's sizes.
        """


@runtime_checkable
class ReadsText(Protocol):
    """An actor that may meet the policy as text, and then can go on from whole characters only."""

    def reads_text(self, layout: TextLayout) -> bool:
        """Whether it does so in this environment."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Who writes which part of a text, and which part teaches."""

    rollout: Actor
    rollin: Actor | None = None  # None: nobody, the rollout starts at the prompt
    rollin_prob: float = 0.0  # chance that a text has a rollin (β)
    learn_on: Literal["rollout", "rollin", "switch"] = "rollout"
    critic: Literal["policy", "guide"] = "policy"
    allow_full_rollins: bool = False  # a rollin may be a whole text, so that the policy can learn to end one
    warm_start_critic: bool = False  # a critic that is new starts from what the other one has learned

    def __post_init__(self) -> None:
        if not 0.0 <= self.rollin_prob <= 1.0:
            raise ValueError(f"rollin_prob must be a probability in [0, 1], got {self.rollin_prob}")
        if self.rollin_prob > 0 and self.rollin is None:
            raise ValueError(f"rollin_prob is {self.rollin_prob} but the plan has no rollin actor to use it")


@runtime_checkable
class RecordsDuringCollection(Protocol):
    """A learner that lets an actor note, while it writes, what the update would otherwise have to read again."""

    def writing(self, plan: Plan) -> Plan:
        """The same plan with such an actor; it writes the same texts."""
