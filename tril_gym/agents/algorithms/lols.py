"""LOLS: each iteration is one of PPO++ or one of AggreVaTeD, by a coin.

Chang et al. 2015, "Learning to Search Better than Your Teacher": https://arxiv.org/abs/1502.02206; for language models
Chang et al. 2023: https://arxiv.org/abs/2306.11816
AggreVaTeD's iterations improve on the guide step by step, PPO++'s look for what the guide does not know. Each half has
a critic of its own: V of the policy, V^g of the guide.

Differs from the first paper: the coin is thrown for an iteration, as in the second paper, not for each deviation.
Known properties: those of the two halves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tril_gym.agents.algorithms.agent import GuidedAgent
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig
from tril_gym.utils.config_fields import config_field


@dataclass(frozen=True, kw_only=True)
class LOLSConfig(ActorCriticConfig):
    """The shared numbers, the coin, and the rollins of both halves."""

    ppo_pp_prob: float = config_field(
        0.8, "chance that an iteration is PPO++'s; the others are AggreVaTeD's", minimum=0, maximum=1, group="guide"
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


class LOLS(GuidedAgent):
    """Locally optimal learning to search."""

    name = "lols"
    config_type = LOLSConfig
    guide_finishes = True

    def plan(self, iteration: int) -> Plan:
        """PPO++ or AggreVaTeD, as the coin of this iteration says: a function of seed and iteration."""
        config = self.config
        if np.random.default_rng([self.seed, iteration]).random() < config.ppo_pp_prob:
            return Plan(rollin=self.guide, rollin_prob=config.rollin_prob, rollout=self.policy)
        prob = config.rollin_prob if config.aggrevated_rollin_prob is None else config.aggrevated_rollin_prob
        return Plan(
            rollin=self.policy,
            rollin_prob=prob,
            allow_full_rollins=config.allow_full_rollins,
            rollout=self.guide,
            learn_on="rollin",
            critic="guide",
        )
