"""The algorithms by their names on the command line. Adding one: a file in `agents`, and a row here."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tril_gym.agents.algorithms.agent import Agent


@dataclass(frozen=True, slots=True)
class Row:
    """One algorithm."""

    agent: str  # "module of agents.algorithms:class", imported when needed, which takes seconds
    help: str


ALGORITHMS = {
    "bc": Row("bc:BC", "Behaviour cloning: learn to write the references."),
    "ppo": Row("ppo:PPO", "PPO: the policy writes whole texts and learns from its reward."),
    "ppo-pp": Row("ppo_pp:PPOPlusPlus", "PPO++: a guide starts texts, the policy finishes them."),
    "aggrevated": Row(
        "aggrevated:AggreVaTeD",
        "AggreVaTeD: the policy starts texts, a guide finishes them.",
    ),
    "lols": Row("lols:LOLS", "LOLS: each iteration is PPO++'s or AggreVaTeD's, by a coin."),
    "d2lols": Row("d2lols:D2LOLS", "D2LOLS: AggreVaTeD first, PPO++ after the hand-over."),
    "gail": Row("gail:GAIL", "GAIL: write what a discriminator takes for references."),
}


def agent_type(name: str) -> type[Agent]:
    """The class of an algorithm.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"unknown algorithm {name!r}; the algorithms are {', '.join(ALGORITHMS)}")
    agent: type[Agent] = pkgutil.resolve_name(f"tril_gym.agents.algorithms.{ALGORITHMS[name].agent}")
    return agent
