"""D2LOLS: AggreVaTeD while the policy is weaker than its guide, then PPO++, which can do better than the guide.

Chang et al. 2023, "Learning to Generate Better Than Your LLM": https://arxiv.org/abs/2306.11816
At the first iteration of PPO++ the policy's critic V starts from the weights of the guide's critic V^g, unless
`warm_start_critic` is off: by then the policy is close to the guide.

Known properties: those of PPO++ and AggreVaTeD.
"""

from __future__ import annotations

from dataclasses import dataclass

from tril_gym.agents.algorithms.agent import GuidedAgent
from tril_gym.agents.algorithms.mixed import MixedConfig
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.utils.config_fields import config_field


@dataclass(frozen=True, kw_only=True)
class D2LOLSConfig(MixedConfig):
    """The hyperparameters of both algorithms, and when PPO++ begins."""

    aggrevated_iterations: int = config_field(
        20, "Iterations of AggreVaTeD before those of PPO++", minimum=0, group="guide"
    )
    warm_start_critic: bool = config_field(
        True, "Let the policy's critic start from the weights of the guide's critic", group="guide"
    )


class D2LOLS(GuidedAgent):
    """AggreVaTeD first, then PPO++."""

    name = "d2lols"
    config_type = D2LOLSConfig
    guide_finishes = True
    learner: ActorCritic

    def plan(self, iteration: int) -> Plan:
        """Return the plan of AggreVaTeD in the first iterations, then that of PPO++."""
        config = self.config
        best_of = config.best_by(self.learner)
        if iteration >= config.aggrevated_iterations:
            return config.guide_starts(
                self.policy, self.guide, iteration, warm_start_critic=config.warm_start_critic, best_of=best_of
            )
        rollin_prob = config.aggrevated_rollin_prob_in(iteration)
        return config.guide_finishes(self.policy, self.guide, iteration, rollin_prob=rollin_prob, best_of=best_of)
