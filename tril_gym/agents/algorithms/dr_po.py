"""DR-PO: texts are reset to states of the references; the policy writes on from there, and learns from what it wrote.

Chang et al. 2024, "Dataset Reset Policy Optimization": https://arxiv.org/abs/2404.08495
It is PPO++ whose guide is the references. With β (`rollin_prob`) 0 it is PPO.

Differs from the paper's code: a rollin may also be empty (`cut` "uniform_from_prompt"), as in its text, so that the
first token is taught with β = 1 too; neither loss nor KL reads a token that the policy did not write.
Known property: it maximises the value of the references' states, which are not those of the policy's own texts.
"""

from __future__ import annotations

from tril_gym.agents.algorithms.agent import GuidedAgent
from tril_gym.agents.algorithms.rollins import RollinConfig
from tril_gym.agents.collection.plan import Plan
from tril_gym.utils.config_fields import with_defaults


@with_defaults(rollin_prob=1.0, cut="uniform_from_prompt", kl_coef=0.05, vf_coef=0.1, learning_rate=3e-6)
class DRPOConfig(RollinConfig):
    """The hyperparameters of PPO++, with defaults of DR-PO."""


class DRPO(GuidedAgent):
    """PPO from states of the references."""

    name = "dr-po"
    config_type = DRPOConfig

    def plan(self, iteration: int) -> Plan:
        """Return the plan: the guide writes the rollin, the policy the rollout, which it learns from."""
        return self.config.guide_starts(self.policy, self.guide, iteration)
