"""D2LOLS: AggreVaTeD while the policy is weaker than its guide, then PPO++, which can do better than the guide.

Chang et al. 2023, "Learning to Generate Better Than Your LLM": https://arxiv.org/abs/2306.11816
At the first iteration of PPO++ the policy's critic V starts from the weights of the guide's critic V^g, unless
`warm_start_critic` is off: by then the policy is close to the guide.

Known properties: those of PPO++ and AggreVaTeD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tril_gym.agents.algorithms.agent import GuidedAgent
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig
from tril_gym.utils.config_fields import config_field


@dataclass(frozen=True, kw_only=True)
class D2LOLSConfig(ActorCriticConfig):
    """The hyperparameters of the actor-critic update, when PPO++ begins, and the rollins of both algorithms."""

    aggrevated_iterations: int = config_field(
        20, "Iterations of AggreVaTeD before those of PPO++", minimum=0, group="guide"
    )
    rollin_prob: float = config_field(
        0.8,
        "Probability β of a rollin, which the guide writes in iterations of PPO++",
        minimum=0,
        maximum=1,
        group="guide",
    )
    aggrevated_rollin_prob: float | None = config_field(
        None,
        "Probability of a rollin in iterations of AggreVaTeD, which the policy writes; default: rollin_prob",
        minimum=0,
        maximum=1,
        group="guide",
    )
    allow_full_rollins: bool = config_field(
        False, "In AggreVaTeD, let a rollin be a whole text, so that the policy learns to end one", group="guide"
    )
    learn_on: Literal["rollin", "switch"] = config_field(
        "rollin", "In AggreVaTeD, learn from all tokens of a rollin, or from its last token only", group="guide"
    )
    warm_start_critic: bool = config_field(
        True, "Let the policy's critic start from the weights of the guide's critic", group="guide"
    )


class D2LOLS(GuidedAgent):
    """AggreVaTeD first, then PPO++."""

    name = "d2lols"
    config_type = D2LOLSConfig
    guide_finishes = True

    def plan(self, iteration: int) -> Plan:
        """Return the plan of AggreVaTeD in the first iterations, then that of PPO++."""
        config = self.config
        if iteration >= config.aggrevated_iterations:
            return Plan.guide_starts(
                self.policy,
                self.guide,
                rollin_prob=config.rollin_prob,
                warm_start_critic=config.warm_start_critic,
            )
        return Plan.guide_finishes(
            self.policy,
            self.guide,
            rollin_prob=config.rollin_prob if config.aggrevated_rollin_prob is None else config.aggrevated_rollin_prob,
            learn_on=config.learn_on,
            allow_full_rollins=config.allow_full_rollins,
        )
