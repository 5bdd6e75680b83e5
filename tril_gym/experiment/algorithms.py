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
    env: str | None = None  # environment of a run that names none; None: that of `RunConfig`
    guide: str | None = None  # guide of a run that names none; None: the tiny guide where the policy is tiny


PAIRS = "tril/HH-v0"  # whose examples have a preferred and a rejected text

ALGORITHMS = {
    "bc": AlgorithmSpec("bc:BC", "Behaviour cloning: learn to write the references."),
    "ppo": AlgorithmSpec("ppo:PPO", "PPO: the policy writes whole texts and learns from their reward."),
    "ppo-pp": AlgorithmSpec("ppo_pp:PPOPlusPlus", "PPO++: a guide starts texts, the policy finishes them."),
    "aggrevated": AlgorithmSpec("aggrevated:AggreVaTeD", "AggreVaTeD: the policy starts texts, a guide finishes them."),
    "lols": AlgorithmSpec("lols:LOLS", "LOLS: each iteration is one of PPO++ or of AggreVaTeD, chosen at random."),
    "d2lols": AlgorithmSpec("d2lols:D2LOLS", "D2LOLS: AggreVaTeD first, PPO++ from a given iteration on."),
    "gail": AlgorithmSpec("gail:GAIL", "GAIL: learn to write what a discriminator cannot tell from the references."),
    "rloo": AlgorithmSpec("rloo:RLOO", "RLOO: a text's reward less the mean of the other texts of its prompt."),
    "grpo": AlgorithmSpec("grpo:GRPO", "GRPO: rewards standardised among the texts of a prompt, no critic."),
    "dr-grpo": AlgorithmSpec("dr_grpo:DrGRPO", "Dr. GRPO: GRPO without bias by length and difficulty."),
    "reinforce-pp": AlgorithmSpec(
        "reinforce_pp:ReinforcePlusPlus", "REINFORCE++: no critic, advantages whitened over the batch."
    ),
    "remax": AlgorithmSpec("remax:ReMax", "ReMax: a text's reward less that of the policy's greedy text."),
    "dapo": AlgorithmSpec("dapo:DAPO", "DAPO: GRPO with a higher clip, without groups that teach nothing."),
    "gspo": AlgorithmSpec("gspo:GSPO", "GSPO: GRPO with one clipped ratio for each text."),
    "cispo": AlgorithmSpec("cispo:CISPO", "CISPO: GRPO with clipped weights, so that every token keeps a gradient."),
    "dr-po": AlgorithmSpec(
        "dr_po:DRPO", "DR-PO: PPO from states of the references, from which the policy writes on.", guide="references"
    ),
    "ppg": AlgorithmSpec("ppg:PPG", "PPG: PPO in phases; between them the policy's body learns the values."),
    "apa": AlgorithmSpec("apa:APA", "APA: log-probabilities are regressed to advantages, no clipped ratio."),
    "vineppo": AlgorithmSpec("vineppo:VinePPO", "VinePPO: values by rollouts from each state instead of a critic."),
    "dpo": AlgorithmSpec("dpo:DPO", "DPO: learn given preferences.", env=PAIRS),
    "ipo": AlgorithmSpec("ipo:IPO", "IPO: learn given preferences with a bounded margin.", env=PAIRS),
    "online-dpo": AlgorithmSpec("online_dpo:OnlineDPO", "Online DPO: the policy's texts, ranked by their rewards."),
    "rebel": AlgorithmSpec("rebel:REBEL", "REBEL: regress the log-ratios of two texts to their rewards' difference."),
    "p3o": AlgorithmSpec("p3o:P3O", "P3O: a clipped policy gradient of pairs of texts."),
    "rso": AlgorithmSpec("rso:RSO", "RSO: preferences among texts that rejection sampling accepted."),
    "raft": AlgorithmSpec("raft:RAFT", "RAFT: imitate the best of several texts of the policy."),
    "a-lol": AlgorithmSpec(
        "a_lol:ALoL", "A-LoL: imitate references as far as they are better than the first policy's texts."
    ),
    "dagger": AlgorithmSpec("dagger:DAgger", "DAgger: learn a guide's next tokens in the policy's own states."),
    "gkd": AlgorithmSpec("gkd:GKD", "GKD: learn a guide's distributions in the policy's own states."),
    "a-star-po": AlgorithmSpec("a_star_po:AStarPO", "A*-PO: regress rewards less each prompt's optimal value."),
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
