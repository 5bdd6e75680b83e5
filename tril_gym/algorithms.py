"""The algorithms by their names on the command line. Adding one: a file in `agents`, and a row here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tril_gym.agents.agent import Agent


@dataclass(frozen=True, slots=True)
class Row:
    """One algorithm."""

    agent: str  # "module:class", imported when it is needed: that takes seconds
    help: str


ALGORITHMS = {
    "bc": Row("tril_gym.agents.bc:BC", "Behaviour cloning: learn to write the references."),
    "ppo": Row("tril_gym.agents.ppo:PPO", "PPO: the policy writes whole texts and learns from its reward."),
    "ppo-pp": Row("tril_gym.agents.ppo_pp:PPOPlusPlus", "PPO++: a guide starts texts, the policy finishes them."),
    "aggrevated": Row(
        "tril_gym.agents.aggrevated:AggreVaTeD", "AggreVaTeD: the policy starts texts, a guide finishes them."
    ),
    "lols": Row("tril_gym.agents.lols:LOLS", "LOLS: each iteration is PPO++'s or AggreVaTeD's, by a coin."),
    "d2lols": Row("tril_gym.agents.d2lols:D2LOLS", "D2LOLS: AggreVaTeD first, PPO++ after the hand-over."),
    "gail": Row("tril_gym.agents.gail:GAIL", "GAIL: write what a discriminator takes for references."),
}


def agent_type(name: str) -> type[Agent]:
    """The class of an algorithm.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"unknown algorithm {name!r}; the algorithms are {', '.join(ALGORITHMS)}")
    module, attribute = ALGORITHMS[name].agent.split(":")
    return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
