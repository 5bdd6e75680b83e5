"""The algorithms by their names on the command line. To add one, write a file in `agents/algorithms` and a row here."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tril_gym.utils.suggestions import with_suggestion

if TYPE_CHECKING:
    from tril_gym.agents.algorithms.agent import Agent


@dataclass(frozen=True, slots=True)
class AlgorithmSpec:
    """Where the agent of an algorithm is, and one line of help."""

    agent: str  # "module of agents.algorithms:class", imported on use because that takes seconds
    help: str


ALGORITHMS = {
    "bc": AlgorithmSpec("bc:BC", "Behaviour cloning: learn to write the references."),
    "ppo": AlgorithmSpec("ppo:PPO", "PPO: the policy writes whole texts and learns from their reward."),
    "ppo-pp": AlgorithmSpec("ppo_pp:PPOPlusPlus", "PPO++: a guide starts texts, the policy finishes them."),
    "aggrevated": AlgorithmSpec("aggrevated:AggreVaTeD", "AggreVaTeD: the policy starts texts, a guide finishes them."),
    "lols": AlgorithmSpec("lols:LOLS", "LOLS: each iteration is one of PPO++ or of AggreVaTeD, chosen at random."),
    "d2lols": AlgorithmSpec("d2lols:D2LOLS", "D2LOLS: AggreVaTeD first, PPO++ from a given iteration on."),
    "gail": AlgorithmSpec("gail:GAIL", "GAIL: learn to write what a discriminator cannot tell from the references."),
}


def agent_type(name: str) -> type[Agent]:
    """Return the agent class of an algorithm.

    Raises:
        ValueError: no algorithm has this name.
    """
    if name not in ALGORITHMS:
        raise ValueError(
            f"unknown algorithm {with_suggestion(name, ALGORITHMS)}; the algorithms are {', '.join(ALGORITHMS)}"
        )
    agent: type[Agent] = pkgutil.resolve_name(f"tril_gym.agents.algorithms.{ALGORITHMS[name].agent}")
    return agent
