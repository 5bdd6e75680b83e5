"""GAIL: the policy learns to write texts that a discriminator takes for references. No task reward is used.

Ho and Ermon 2016, "Generative Adversarial Imitation Learning": https://arxiv.org/abs/1606.03476
In each iteration the policy writes whole texts, the discriminator learns to tell them from references of the same
prompts, and its logit of each text is the reward, at the last token, of a PPO update.

Differs from the paper: PPO instead of TRPO; the discriminator reads whole texts, unless `discriminator_level` is token:
then its logit of each pair of state and action is the reward of that token; the reward is the logit by default. The
logit takes either sign, so that neither short nor long texts gain by their length alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from gymnasium.vector import VectorEnv

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.adversarial import AdversarialLearner
from tril_gym.agents.learners.adversarial_config import AdversarialConfig
from tril_gym.agents.learners.discriminator import Discriminator
from tril_gym.utils.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class GAILConfig(AdversarialConfig):
    """The hyperparameters of adversarial learning, without additions."""


class GAIL(Agent):
    """Adversarial imitation of the references.

    Args:
        policy: the language model to train, in place.
        envs: the vector environment to write in; its reward is logged, not learned from.
        config: the hyperparameters.
        discriminator: a discriminator of your own; by default the one that the config names.
        seed: seed of all randomness in training.
        ranks: see `Agent`.
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
        discriminator: Discriminator | None = None,
        seed: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(policy, envs, config, seed=seed, ranks=ranks)
        if discriminator is not None:
            self.learner.set_discriminator(discriminator)

    def plan(self, iteration: int) -> Plan:
        """Return the plan of PPO: the policy writes whole texts."""
        return Plan(rollout=self.policy)
