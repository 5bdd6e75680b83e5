"""D2LOLS: AggreVaTeD while the policy is weaker than its guide, then PPO++, which can do better than the guide.

Chang et al. 2023, "Learning to Generate Better Than Your LLM": https://arxiv.org/abs/2306.11816
At the hand-over the policy's critic V starts from the weights of the guide's critic V^g, unless `warm_start_critic` is
off: by then the policy is close to the guide.

Known properties: those of the two halves.
"""

from __future__ import annotations

from dataclasses import dataclass

from tril_gym.agents.algorithms.agent import GuidedAgent
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig
from tril_gym.utils.config_fields import config_field


@dataclass(frozen=True, kw_only=True)
class D2LOLSConfig(ActorCriticConfig):
    """The shared numbers, the hand-over, and the rollins of both halves."""

    aggrevated_iterations: int = config_field(
        20, "iterations of AggreVaTeD before those of PPO++", minimum=0, group="guide"
    )
    rollin_prob: float = config_field(
        0.8, "chance β of a rollin, in PPO++'s iterations by the guide", minimum=0, maximum=1, group="guide"
    )
    aggrevated_rollin_prob: float | None = config_field(
        None,
        "the same in AggreVaTeD's iterations, by the policy; default: rollin_prob",
        minimum=0,
        maximum=1,
        group="guide",
    )
    allow_full_rollins: bool = config_field(
        False, "let some rollins of the policy be whole texts, so that it learns to end one", group="guide"
    )
    warm_start_critic: bool = config_field(
        True, "let the policy's critic start from what the guide's has learned", group="guide"
    )


class D2LOLS(GuidedAgent):
    """LOLS without a coin: first AggreVaTeD, then PPO++."""

    name = "d2lols"
    config_type = D2LOLSConfig
    guide_finishes = True

    def plan(self, iteration: int) -> Plan:
        """AggreVaTeD up to the hand-over, PPO++ from there."""
        config = self.config
        if iteration >= config.aggrevated_iterations:
            return Plan(
                rollin=self.guide,
                rollin_prob=config.rollin_prob,
                rollout=self.policy,
                warm_start_critic=config.warm_start_critic,
            )
        prob = config.rollin_prob if config.aggrevated_rollin_prob is None else config.aggrevated_rollin_prob
        return Plan(
            rollin=self.policy,
            rollin_prob=prob,
            allow_full_rollins=config.allow_full_rollins,
            rollout=self.guide,
            learn_on="rollin",
            critic="guide",
        )
