"""LOLS: each iteration is one of PPO++ or one of AggreVaTeD, drawn at random.

Chang et al. 2015, "Learning to Search Better than Your Teacher": https://arxiv.org/abs/1502.02206; for language models
Chang et al. 2023: https://arxiv.org/abs/2306.11816
Iterations of AggreVaTeD improve on the guide by one-step deviations, those of PPO++ explore what the guide does not do.
Each of the two has a critic of its own: V of the policy, V^g of the guide.

Differs from the first paper: the draw is per iteration, as in the second paper, not per deviation.
Known properties: those of PPO++ and AggreVaTeD.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tril_gym.agents.algorithms.agent import GuidedAgent
from tril_gym.agents.algorithms.mixed import MixedConfig
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.utils.config_fields import config_field


@dataclass(frozen=True, kw_only=True)
class LOLSConfig(MixedConfig):
    """The hyperparameters of both algorithms, and the share of PPO++."""

    ppo_pp_prob: float = config_field(
        0.8,
        "Probability that an iteration is one of PPO++; the others are of AggreVaTeD",
        minimum=0,
        maximum=1,
        group="guide",
    )


class LOLS(GuidedAgent):
    """Locally optimal learning to search."""

    name = "lols"
    config_type = LOLSConfig
    guide_finishes = True
    learner: ActorCritic

    def plan(self, iteration: int) -> Plan:
        """Return the plan of PPO++ or of AggreVaTeD, drawn from the seed and the iteration."""
        config = self.config
        best_of = config.best_by(self.learner)
        if np.random.default_rng([self.seed, iteration]).random() < config.ppo_pp_prob:
            return config.guide_starts(self.policy, self.guide, iteration, best_of=best_of)
        rollin_prob = config.aggrevated_rollin_prob_in(iteration)
        return config.guide_finishes(self.policy, self.guide, iteration, rollin_prob=rollin_prob, best_of=best_of)
