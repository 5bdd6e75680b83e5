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
from typing import Literal

from tril_gym.agents.algorithms.agent import GuidedAgent
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig
from tril_gym.utils.config_fields import config_field


@dataclass(frozen=True, kw_only=True)
class AggreVaTeDConfig(ActorCriticConfig):
    """The hyperparameters of the actor-critic update, and which tokens the policy writes and learns from."""

    rollin_prob: float = config_field(
        0.8,
        "Probability β that the policy starts a text; the guide writes the other texts alone",
        minimum=0,
        maximum=1,
        group="guide",
    )
    allow_full_rollins: bool = config_field(
        False, "Let a rollin be a whole text, so that the policy learns to end one", group="guide"
    )
    learn_on: Literal["rollin", "switch"] = config_field(
        "rollin", "Learn from all tokens of a rollin, or from its last token only", group="guide"
    )


class AggreVaTeD(GuidedAgent):
    """Learn from what a guide makes of the policy's beginnings."""

    name = "aggrevated"
    config_type = AggreVaTeDConfig
    guide_finishes = True

    def plan(self, iteration: int) -> Plan:
        """Return the plan: the policy writes the rollin and learns from it, the guide writes the rollout."""
        config = self.config
        return Plan.guide_finishes(
            self.policy,
            self.guide,
            rollin_prob=config.rollin_prob,
            learn_on=config.learn_on,
            allow_full_rollins=config.allow_full_rollins,
        )
