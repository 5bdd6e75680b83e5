"""The algorithms by their names on the command line, and those of one's own, FILE.py:Class or module:Class.

To add one to the library, write a file in `agents/algorithms` and a row here.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from tril_gym.utils.suggestions import with_suggestion
from tril_gym.utils.user_code import check_not_file_alone, is_function_name, resolve_function

if TYPE_CHECKING:
    from tril_gym.agents.algorithms.agent import Agent
    from tril_gym.agents.learners.optimizer import OptimizerConfig
    from tril_gym.functional.sampling import Decoding


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
    "rloo": AlgorithmSpec("rloo:RLOO", "RLOO: a text's reward minus the mean reward of its prompt's other texts."),
    "grpo": AlgorithmSpec("grpo:GRPO", "GRPO: rewards standardised among the texts of a prompt, no critic."),
    "dr-grpo": AlgorithmSpec("dr_grpo:DrGRPO", "Dr. GRPO: GRPO without bias by length and difficulty."),
    "reinforce-pp": AlgorithmSpec(
        "reinforce_pp:ReinforcePlusPlus", "REINFORCE++: no critic, advantages whitened over the batch."
    ),
    "remax": AlgorithmSpec("remax:ReMax", "ReMax: a text's reward minus that of the policy's greedy text."),
    "dapo": AlgorithmSpec("dapo:DAPO", "DAPO: GRPO with a higher clip, without groups that teach nothing."),
    "gspo": AlgorithmSpec("gspo:GSPO", "GSPO: GRPO with one clipped ratio for each text."),
    "cispo": AlgorithmSpec("cispo:CISPO", "CISPO: GRPO with clipped weights, so that every token keeps a gradient."),
    "dr-po": AlgorithmSpec(
        "dr_po:DRPO", "DR-PO: PPO from states of the references, from which the policy writes on.", guide="references"
    ),
    "ppg": AlgorithmSpec("ppg:PPG", "PPG: PPO in phases; between them the policy's body learns the values."),
    "apa": AlgorithmSpec("apa:APA", "APA: regress log π onto log π_old + A/λ instead of clipping a ratio."),
    "vineppo": AlgorithmSpec("vineppo:VinePPO", "VinePPO: values by rollouts from each state instead of a critic."),
    "dpo": AlgorithmSpec("dpo:DPO", "DPO: learn given preferences.", env=PAIRS),
    "ipo": AlgorithmSpec("ipo:IPO", "IPO: learn given preferences with a bounded margin.", env=PAIRS),
    "online-dpo": AlgorithmSpec("online_dpo:OnlineDPO", "Online DPO: the policy's texts, ranked by their rewards."),
    "rebel": AlgorithmSpec("rebel:REBEL", "REBEL: regress the log-ratios of two texts onto their rewards' difference."),
    "p3o": AlgorithmSpec("p3o:P3O", "P3O: a clipped policy gradient of pairs of texts."),
    "rso": AlgorithmSpec("rso:RSO", "RSO: preferences among texts that rejection sampling accepted."),
    "raft": AlgorithmSpec("raft:RAFT", "RAFT: imitate the best of several texts of the policy."),
    "a-lol": AlgorithmSpec(
        "a_lol:ALoL", "A-LoL: imitate references as far as they are better than the first policy's texts."
    ),
    "dagger": AlgorithmSpec("dagger:DAgger", "DAgger: learn a guide's next tokens in the policy's own states."),
    "gkd": AlgorithmSpec("gkd:GKD", "GKD: learn a guide's distributions in the policy's own states."),
    "a-star-po": AlgorithmSpec("a_star_po:AStarPO", "A*-PO: regress log-ratios onto reward minus the optimal value."),
}


def agent_type(name: str) -> type[Agent]:
    """Return the agent class of an algorithm; the file or module of one's own is imported.

    Raises:
        ValueError: no algorithm has this name, or it is not that of an agent class.
    """
    if is_function_name(name):
        return _own_agent_type(name)
    if name not in ALGORITHMS:
        check_not_file_alone(name, option=f"the algorithm {name}", kind="class")
        raise ValueError(
            f"unknown algorithm {with_suggestion(name, ALGORITHMS)}; the algorithms are {', '.join(ALGORITHMS)}, or one"
            " of your own, FILE.py:Class"
        )
    agent: type[Agent] = pkgutil.resolve_name(f"tril_gym.agents.algorithms.{ALGORITHMS[name].agent}")
    return agent


def _own_agent_type(name: str) -> type[Agent]:
    from tril_gym.agents.algorithms.agent import Agent

    found = resolve_function(name, option=f"the algorithm {name}", kind="class")
    if not (isinstance(found, type) and issubclass(found, Agent)) or found.__abstractmethods__:
        raise ValueError(
            f"the algorithm {name} must be a class that extends tril_gym.agents.Agent, or one of its algorithms such as"
            " PPO, and has a method plan"
        )
    return found


def algorithm_spec(name: str) -> AlgorithmSpec:
    """Return the row of an algorithm; one of one's own has environment and guide of the algorithm that it extends.

    Raises:
        ValueError: as of `agent_type`.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    kind = agent_type(name)
    inherited = ALGORITHMS.get(extended_algorithm(name), AlgorithmSpec(name, ""))
    about = (kind.__doc__ or "").strip().partition("\n")[0]
    return replace(inherited, agent=name, help=about or f"{kind.__name__}, an algorithm of your own.")


def extended_algorithm(name: str) -> str:
    """Return the name under which presets have the settings of an algorithm: its own, or of the one that it extends."""
    if not is_function_name(name):
        return name
    ancestors = [f"{kind.__module__}:{kind.__qualname__}" for kind in agent_type(name).__mro__]
    known = {f"tril_gym.agents.algorithms.{spec.agent}": known for known, spec in ALGORITHMS.items()}
    return next((known[ancestor] for ancestor in ancestors if ancestor in known), name)


def short_name(name: str) -> str:
    """Return the name of an algorithm for names of files: of FILE.py:Class the class."""
    return name.rpartition(":")[2]


def decoding_of(settings: Mapping[str, Any]) -> Decoding:
    """Return how a run of these settings samples from its policy; code of one's own is not run for it."""
    from tril_gym.agents.learners.policy_config import PolicyConfig

    is_own = is_function_name(settings["algorithm"])
    kind: type[OptimizerConfig] = PolicyConfig if is_own else agent_type(settings["algorithm"]).config_type
    known = {entry.name for entry in fields(kind)}
    return kind(**{name: value for name, value in settings["hyperparameters"].items() if name in known}).decoding()
