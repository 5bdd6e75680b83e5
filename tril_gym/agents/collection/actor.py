"""Actors and their writers: everything that writes texts, and the defaults of what it can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Infos, Trajectories
from tril_gym.models.texts import Texts


class Writer(ABC):
    """Writes B texts at once, one token of each per call. `BatchGenerator` ends and drops texts."""

    min_new_tokens: int = 0  # guarantee: no text ends before it has this many tokens
    values: Tensor | None = None  # (B,) V of each text before the token that `next` wrote last; None: not known
    cut_mass: Tensor | None = None  # (B,) probability that top-k and top-p excluded there; None: nothing is cut

    @abstractmethod
    def next(self, draws: Tensor) -> tuple[Tensor, Tensor | None]:
        """Write one token on every text.

        Args:
            draws: (B,) float64 uniforms in [0, 1), the only randomness a writer may use.

        Returns:
            tokens (B,) int64, and their log-probabilities (B,) in nats, or None where the writer has none.
        """

    @abstractmethod
    def keep(self, rows: Tensor) -> None:
        """Keep these rows only, (B',) int64 indices, in this order; the other texts have ended."""

    def close(self) -> None:  # noqa: B027  most writers hold nothing
        """Release what the writer holds."""


class Actor(ABC):
    """Writes texts: a language model, a guide, a table of references, a callable, a person.

    A plain class with a `start` method will do, too: `as_actor` adds the defaults of the rest.
    """

    can_continue: bool = True  # False: it can only begin texts
    needs_references: bool = False  # it writes on examples with references only

    @abstractmethod
    def start(self, texts: Texts, infos: Infos, layout: TextLayout) -> Writer:
        """Continue B texts where they stop.

        Args:
            texts:  prompts and what has been written after them; lengths may differ.
            infos:  one dictionary per text: `prompt`, `references`, `example` as the environment gave them.
            layout: the environment's sizes.
        """

    def reads_text(self, layout: TextLayout) -> bool:
        """Return whether it decodes what it continues in this environment; it is then given whole characters only."""
        return False

    def check(self, layout: TextLayout) -> None:  # noqa: B027  most actors fit every environment
        """Raise `ValueError` for an environment that this actor cannot write in."""

    def check_readings(self, layout: TextLayout) -> None:  # noqa: B027  only models read
        """Raise `ValueError` if generation and scoring disagree in the actor's model; see `model_check`."""

    def gathered(self) -> AbstractContextManager[None]:
        """Return a context in which texts are written: weights that the processes share are gathered in it."""
        return nullcontext()

    def metrics(self) -> dict[str, float]:
        """Return metrics of what it wrote since the last call, by name."""
        return {}

    def remember(self, trajectories: Trajectories) -> None:  # noqa: B027  most actors have no memory
        """Take note of the texts of an iteration, which have been learned from."""

    def state_dict(self) -> dict[str, Any]:
        """Return what an agent must save of its memory: plain data; nothing of one that has none."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restore what `state_dict` returned."""


def refuse_begun(texts: Texts, subject: str) -> None:
    """Raise `ValueError` if a text is begun already, for actors that cannot continue one."""
    if bool(texts.is_token.any()):
        raise ValueError(f"{subject} can only begin a text, not continue one; use another actor for the rollout")


def as_actor(found: Any) -> Actor:
    """Return an actor, or a plain object with a `start` method as an actor.

    Raises:
        TypeError: there is no `start` method.
    """
    if isinstance(found, Actor):
        return found
    if isinstance(found, type) or not callable(getattr(found, "start", None)):
        raise TypeError(
            f"an actor has a start method, got {found!r}; use Guide(policy), Guide.references(), for a function of"
            " texts Guide.from_callable(f), or write one as docs/your_own_agent.md shows"
        )
    return _PlainActor(found)


OPTIONAL = (  # methods of an actor that have a default
    *("reads_text", "check", "check_readings", "gathered"),
    *("metrics", "remember", "state_dict", "load_state_dict"),
)


class _PlainActor(Actor):
    """A plain object as an actor. This adapter and the next alone ask which capabilities an object has."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain
        self.can_continue = getattr(plain, "can_continue", Actor.can_continue)
        self.needs_references = getattr(plain, "needs_references", Actor.needs_references)
        for name in OPTIONAL:
            if hasattr(plain, name):
                setattr(self, name, getattr(plain, name))

    def start(self, texts: Texts, infos: Infos, layout: TextLayout) -> Writer:
        return as_writer(self._plain.start(texts, infos, layout))

    def __repr__(self) -> str:
        return repr(self._plain)


def as_writer(found: Any) -> Writer:
    """Return a writer, or a plain object with `next`, `keep` and `close` as a writer."""
    return found if isinstance(found, Writer) else _PlainWriter(found)


class _PlainWriter(Writer):
    def __init__(self, plain: Any) -> None:
        self._plain = plain
        self.min_new_tokens = getattr(plain, "min_new_tokens", Writer.min_new_tokens)

    def next(self, draws: Tensor) -> tuple[Tensor, Tensor | None]:
        tokens, logprobs = self._plain.next(draws)
        self.values = getattr(self._plain, "values", Writer.values)
        self.cut_mass = getattr(self._plain, "cut_mass", Writer.cut_mass)
        return tokens, logprobs

    def keep(self, rows: Tensor) -> None:
        self._plain.keep(rows)

    def close(self) -> None:
        self._plain.close()
