"""GAIL: the policy learns to write what a discriminator cannot tell from the references. Nobody pays it for a task.

Ho and Ermon 2016, "Generative Adversarial BehaviourCloning Learning": https://arxiv.org/abs/1606.03476
Each iteration: the policy writes whole texts, the discriminator learns to tell them from references of the same
prompts, and its verdict on each text, paid at the last token, is the reward of a PPO update.

Differs from the paper: PPO in place of TRPO; the discriminator judges whole texts, not pairs of state and action; its
logit is the reward by default, of either sign, so that neither short nor long texts gain by their length alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from gymnasium.vector import VectorEnv

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.adversarial import AdversarialConfig, AdversarialLearner
from tril_gym.agents.learners.discriminator import Discriminator


@dataclass(frozen=True, kw_only=True)
class GAILConfig(AdversarialConfig):
    """GAIL reads the discriminator's numbers and the shared ones, and no others."""


class GAIL(Agent):
    """Adversarial imitation of the references.

    Args:
        policy: the language model that learns; trained in place.
        envs: the vector environment to write in; its reward is logged, not learned from.
        config: the algorithm's numbers.
        judge: a discriminator of your own; by default the one that the config names.
        seed: all the randomness of training comes from it.
    """

    name = "gail"
    config_type = GAILConfig
    learner_type = AdversarialLearner
    learner: AdversarialLearner

    def __init__(
        self,
        policy: LMPolicy,
        envs: VectorEnv,
        config: GAILConfig | None = None,
        *,
        judge: Discriminator | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(policy, envs, config, seed=seed)
        if judge is not None:
            self.learner.set_discriminator(judge)

    def plan(self, iteration: int) -> Plan:
        """The policy writes everything."""
        return Plan(rollout=self.policy)
