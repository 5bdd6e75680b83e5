"""AggreVaTeD: the policy starts a text, the guide finishes it, and the policy learns from what the guide made of it.

Sun et al. 2017, "Deeply AggreVaTeD": https://arxiv.org/abs/1703.01030; for language models Chang et al. 2023:
https://arxiv.org/abs/2306.11816
With probability β (`rollin_prob`) the policy writes a whole completion, which is cut at a uniform place, and the guide
writes on from there. The critic learns V^g, what the guide earns from a state, on the guide's tokens; GAE over the
mixed text credits the policy's tokens with what they did to that: with λ = 0 the advantage is A^g(s, a).

Differs from the papers: the update is PPO's clipped one, as in the second paper's code.
Known property: the policy never learns EOS nor a text's last token, unless `allow_full_rollins`.
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
    """The shared numbers, and which of its tokens the policy learns from."""

    rollin_prob: float = config_field(
        0.8,
        "chance β that the policy starts a text; the others are the guide's alone",
        minimum=0,
        maximum=1,
        group="guide",
    )
    allow_full_rollins: bool = config_field(
        False, "let some rollins be whole texts, so that the policy learns to end one", group="guide"
    )
    learn_on: Literal["rollin", "switch"] = config_field(
        "rollin", "learn from all tokens of a rollin, or from its last", group="guide"
    )


class AggreVaTeD(GuidedAgent):
    """Learn from what a guide makes of the policy's beginnings."""

    name = "aggrevated"
    config_type = AggreVaTeDConfig
    guide_finishes = True

    def plan(self, iteration: int) -> Plan:
        """The policy rolls in and learns from that, the guide rolls out and its critic learns from that."""
        config = self.config
        return Plan(
            rollin=self.policy,
            rollin_prob=config.rollin_prob,
            allow_full_rollins=config.allow_full_rollins,
            rollout=self.guide,
            learn_on=config.learn_on,
            critic="guide",
        )
