"""PPG: PPO in phases. After N_π iterations the policy's body learns the values, while its distributions are kept.

Cobbe et al. 2020, "Phasic Policy Gradient": https://arxiv.org/abs/2009.04416
Policy and critic are two networks, so that neither disturbs the other; in the auxiliary phase a value head on the
policy's body learns the returns too. Returns are those of collection, not computed again with later values.

Differs from the paper: policy and critic learn for as many epochs in the policy phase; rewards are not normalised.
The KL is that of the distributions that are sampled, at the policy's temperature.
Known property: T5 is computed by other kernels where no gradient is needed. So at the first step the gradient of the KL
is rounding, not 0, and AdamW makes a step of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.phasic import Phasic, PhasicConfig


@dataclass(frozen=True, kw_only=True)
class PPGConfig(PhasicConfig):
    """The hyperparameters of the actor-critic update and of the auxiliary phase, without additions."""


class PPG(Agent):
    """Phasic policy gradient."""

    name = "ppg"
    config_type = PPGConfig
    learner_type = Phasic

    def plan(self, iteration: int) -> Plan:
        """Return the plan: the policy writes whole texts."""
        return Plan(rollout=self.policy)
