"""PPO: the policy writes whole texts and learns from every token of them.

Schulman et al. 2017, "Proximal Policy Optimization Algorithms": https://arxiv.org/abs/1707.06347
Added, as for language models since Ziegler et al. 2019 (https://arxiv.org/abs/1909.08593): the reward is reduced by the
KL to the policy that training began with.

One iteration, step by step, and the function that takes each step. PPO++, AggreVaTeD, LOLS, D2LOLS, DR-PO and GAIL take
the same steps: they differ in the plan (2), GAIL also in the reward. Others have another estimator of advantages (7) or
another objective (9), and most of these no critic.

 1. Repeat for each iteration              `agents.algorithms.training_loop.learn`
 2. Decide who writes which part           `agents.algorithms.ppo.PPO.plan`
 3. Write texts with π_old                 `agents.collection.collector.collect`
    draw a token, keep log π_old           `functional.sampling.sample`
    take the rewards of the environment    `agents.collection.trajectories.Trajectories`
 4. Update policy and critic               `agents.learners.actor_critic.ActorCritic.update`
 5. Score under π_ref and V                `agents.learners.credit.CreditAssignment.add_reference_and_values`
 6. Subtract the KL from the rewards       `functional.returns.kl_penalised_rewards` of `functional.kl.kl_terms`
 7. Estimate advantages and returns        `agents.learners.advantages.gae_advantages` by `functional.returns.gae`
 8. Loop over epochs and minibatches       `agents.learners.epochs.Epochs.run`
 9. Score the minibatch under π            `agents.learners.epochs.Epochs.policy_terms`
    clipped surrogate, eq. 7               `functional.losses.policy_loss`
    entropy bonus, eq. 9                   `functional.losses.entropy_bonus`
10. Value loss                             `functional.losses.value_loss`
11. Gradients of the sum, eq. 9            `agents.learners.epochs.Epochs.gradients`
12. Move the KL coefficient                `functional.kl.KLController.update`
13. Report metrics                         `agents.algorithms.training_loop.text_metrics`
"""

from __future__ import annotations

from dataclasses import dataclass

from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig


@dataclass(frozen=True, kw_only=True)
class PPOConfig(ActorCriticConfig):
    """The hyperparameters of the actor-critic update, without additions."""


class PPO(Agent):
    """Proximal policy optimization over tokens, with a critic."""

    name = "ppo"
    config_type = PPOConfig

    def plan(self, iteration: int) -> Plan:
        """Return the plan: the policy writes whole texts."""
        return Plan(rollout=self.policy)
