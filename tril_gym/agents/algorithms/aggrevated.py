"""AggreVaTeD: the policy starts a text, the guide finishes it, and the policy learns from the reward of the whole.

Sun et al. 2017, "Deeply AggreVaTeD": https://arxiv.org/abs/1703.01030; for language models Chang et al. 2023:
https://arxiv.org/abs/2306.11816
With probability β (`rollin_prob`) the policy writes a whole completion, which is cut at a uniformly drawn token, and
the guide continues from there. The critic learns V^g, the value of a state under the guide, on the guide's tokens. GAE
over the mixed text credits the policy's tokens with the change of that value: with λ = 0 the advantage is A^g(s, a).

Differs from the papers: the update is PPO's clipped one, as in the second paper's code.
Known property: the policy never learns EOS nor the last token of a text, unless `allow_full_rollins`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tril_gym.agents.algorithms.agent import GuidedAgent
from tril_gym.agents.algorithms.policy_rollins import PolicyRollinConfig
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.actor_critic import ActorCritic


@dataclass(frozen=True, kw_only=True)
class AggreVaTeDConfig(PolicyRollinConfig):
    """The hyperparameters of the actor-critic update and of the policy's rollins, without additions."""


class AggreVaTeD(GuidedAgent):
    """Learn from what a guide makes of the policy's beginnings."""

    name = "aggrevated"
    config_type = AggreVaTeDConfig
    guide_finishes = True
    learner: ActorCritic

    def plan(self, iteration: int) -> Plan:
        """Return the plan: the policy writes the rollin and learns from it, the guide writes the rollout."""
        rollin_prob, best_of = self.config.rollin_prob_in(iteration), self.config.best_by(self.learner)
        return self.config.guide_finishes(self.policy, self.guide, iteration, rollin_prob=rollin_prob, best_of=best_of)
