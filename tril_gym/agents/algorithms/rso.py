"""RSO: candidates of the reference policy are accepted, those with a high reward more often, and paired.

Liu et al. 2024, "Statistical Rejection Sampling Improves Preference Optimization": https://arxiv.org/abs/2309.06657
Of each prompt's candidates some are accepted (algorithm 1); neighbouring accepted texts form pairs, ranked by reward.

Differs from the paper: no top-k in sampling candidates, since accepted texts would then follow the truncated policy;
8 candidates instead of 64 by default.
Known property: accepted texts follow π_ref e^{r/β}/Z only in the first round and with many candidates. Where
`accepted_texts` is `texts_per_prompt`, all are accepted, in an order that depends on their rewards.
"""

from __future__ import annotations

from dataclasses import dataclass

from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.agents.learners.rejection_config import RejectionConfig


@dataclass(frozen=True, kw_only=True)
class RSOConfig(RejectionConfig):
    """The hyperparameters of an update by preferences and of rejection sampling, without additions."""


class RSO(Agent):
    """Preference optimization of texts that rejection sampling accepted."""

    name = "rso"
    config_type = RSOConfig
    learner: ActorCritic

    def plan(self, iteration: int) -> Plan:
        """Return the plan: the reference policy writes the candidates."""
        return Plan(rollout=self.learner.ref_policy, texts_per_prompt=self.config.texts_per_prompt)
