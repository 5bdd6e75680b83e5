"""D2LOLS: AggreVaTeD while the policy is weaker than its guide, then PPO++, which can do better than the guide.

Chang et al. 2023, "Learning to Generate Better Than Your LLM": https://arxiv.org/abs/2306.11816
At the first iteration of PPO++ the policy is close to the guide, so its critic V starts from the weights of the guide's
critic V^g, unless `warm_start_critic` is off. PPO++ begins after a number of iterations, or once the policy's mean
reward reaches the guide's on the same prompts (`hand_over` "quality").

Known properties: those of PPO++ and AggreVaTeD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tril_gym.agents.algorithms.agent import GuidedAgent
from tril_gym.agents.algorithms.hand_over import HandOverConfig
from tril_gym.agents.collection.baselines import compared_rewards
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.agents.learners.learner import Metrics
from tril_gym.utils.config_fields import config_field
from tril_gym.utils.profiler import Timer


@dataclass(frozen=True, kw_only=True)
class D2LOLSConfig(HandOverConfig):
    """The hyperparameters of both algorithms, and when PPO++ begins."""

    warm_start_critic: bool = config_field(
        True, "Let the policy's critic start from the weights of the guide's critic", group="guide"
    )


class D2LOLS(GuidedAgent):
    """AggreVaTeD first, then PPO++."""

    name = "d2lols"
    config_type = D2LOLSConfig
    guide_finishes = True
    learner: ActorCritic
    handed_over: int | None = None  # iteration in which the policy was found to write well enough

    def prepare(self, timer: Timer) -> Metrics:
        """Compare the policy with the guide, if this is due, on the same prompts with the same uniforms."""
        if not self.config.is_measured_in(self.iteration, self.handed_over):
            return {}
        found = compared_rewards(
            self.envs,
            {"policy": self.writer or self.policy, "guide": self.guide},
            texts=self.config.hand_over_texts,
            seed=int(np.random.default_rng([self.seed, self.iteration]).integers(2**31)),
            timer=timer,
            ranks=self.ranks,
        )
        is_good = found["policy"] - found["guide"] >= self.config.hand_over_margin
        self.handed_over = self.iteration if is_good else None
        return {f"hand_over/{name}": reward for name, reward in found.items()}

    def own_state(self) -> dict[str, Any]:
        """Return when PPO++ began, if that was measured."""
        return {} if self.handed_over is None else {"handed_over": self.handed_over}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Restore what `own_state` returned."""
        self.handed_over = state["handed_over"]

    def plan(self, iteration: int) -> Plan:
        """Return the plan of AggreVaTeD until the policy is good enough, then that of PPO++."""
        config = self.config
        best_of = config.best_by(self.learner)
        handed_over = config.aggrevated_iterations if self.handed_over is None else self.handed_over
        if iteration >= handed_over:
            return config.guide_starts(
                self.policy, self.guide, iteration, warm_start_critic=config.warm_start_critic, best_of=best_of
            )
        rollin_prob = config.aggrevated_rollin_prob_in(iteration)
        return config.guide_finishes(self.policy, self.guide, iteration, rollin_prob=rollin_prob, best_of=best_of)
