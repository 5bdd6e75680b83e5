"""APA: log π is regressed onto log π_old + A/λ; no ratio is clipped.

Zhu et al. 2023, "Fine-Tuning Language Models with Advantage-Induced Policy Alignment":
https://arxiv.org/abs/2306.02231
Everything else is PPO's: critic, GAE, the KL in the reward. `policy_loss` "apa" fits every algorithm with a critic, so
this one is PPO with other defaults. λ is in standard deviations of the advantages, which are whitened.

Differs from the paper: the anchor is the policy that sampled, as in the published code; `apa_anchor` "reference" is the
paper's. Known property: the target sums to 1 only to first order in A/λ, so a small λ biases it.
"""

from __future__ import annotations

from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig
from tril_gym.utils.config_fields import with_defaults


@with_defaults(policy_loss="apa", apa_temperature=0.5, normalize_advantages=True, vf_coef=1.0, epochs=2, kl_coef=0.05)
class APAConfig(ActorCriticConfig):
    """The hyperparameters of the actor-critic update, with defaults of APA."""


class APA(Agent):
    """Advantage-induced policy alignment."""

    name = "apa"
    config_type = APAConfig

    def plan(self, iteration: int) -> Plan:
        """Return the plan: the policy writes whole texts."""
        return Plan(rollout=self.policy)
