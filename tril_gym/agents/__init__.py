"""Agents: language models that learn in text environments, alone or with a guide.

The public names load on first use (PEP 562): importing one takes seconds, for it imports torch and transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tril_gym.utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from tril_gym.agents.actors.guide import Guide as Guide
    from tril_gym.agents.actors.policy import LMPolicy as LMPolicy
    from tril_gym.agents.actors.references import References as References
    from tril_gym.agents.actors.references import ReferenceTokens as ReferenceTokens
    from tril_gym.agents.actors.served_policy import AdapterHandOver as AdapterHandOver
    from tril_gym.agents.actors.served_policy import FolderHandOver as FolderHandOver
    from tril_gym.agents.actors.served_policy import ServedPolicy as ServedPolicy
    from tril_gym.agents.actors.served_policy import load_into_sglang as load_into_sglang
    from tril_gym.agents.algorithms.agent import Agent as Agent
    from tril_gym.agents.algorithms.agent import GuidedAgent as GuidedAgent
    from tril_gym.agents.algorithms.aggrevated import AggreVaTeD as AggreVaTeD
    from tril_gym.agents.algorithms.aggrevated import AggreVaTeDConfig as AggreVaTeDConfig
    from tril_gym.agents.algorithms.bc import BC as BC
    from tril_gym.agents.algorithms.bc import BCConfig as BCConfig
    from tril_gym.agents.algorithms.callback import Callback as Callback
    from tril_gym.agents.algorithms.callback import StopTraining as StopTraining
    from tril_gym.agents.algorithms.d2lols import D2LOLS as D2LOLS
    from tril_gym.agents.algorithms.d2lols import D2LOLSConfig as D2LOLSConfig
    from tril_gym.agents.algorithms.gail import GAIL as GAIL
    from tril_gym.agents.algorithms.gail import GAILConfig as GAILConfig
    from tril_gym.agents.algorithms.lols import LOLS as LOLS
    from tril_gym.agents.algorithms.lols import LOLSConfig as LOLSConfig
    from tril_gym.agents.algorithms.ppo import PPO as PPO
    from tril_gym.agents.algorithms.ppo import PPOConfig as PPOConfig
    from tril_gym.agents.algorithms.ppo_pp import PPOPlusPlus as PPOPlusPlus
    from tril_gym.agents.algorithms.ppo_pp import PPOPlusPlusConfig as PPOPlusPlusConfig
    from tril_gym.agents.algorithms.report import History as History
    from tril_gym.agents.algorithms.report import Report as Report
    from tril_gym.agents.collection.actor import Actor as Actor
    from tril_gym.agents.collection.actor import Writer as Writer
    from tril_gym.agents.collection.collector import collect as collect
    from tril_gym.agents.collection.layout import TextLayout as TextLayout
    from tril_gym.agents.collection.plan import Plan as Plan
    from tril_gym.agents.collection.trajectories import Trajectories as Trajectories
    from tril_gym.agents.learners.actor_critic import ActorCritic as ActorCritic
    from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig as ActorCriticConfig
    from tril_gym.agents.learners.adversarial import AdversarialConfig as AdversarialConfig
    from tril_gym.agents.learners.adversarial import AdversarialLearner as AdversarialLearner
    from tril_gym.agents.learners.behaviour_cloning import BehaviourCloning as BehaviourCloning
    from tril_gym.agents.learners.critic import Critic as Critic
    from tril_gym.agents.learners.discriminator import Discriminator as Discriminator
    from tril_gym.agents.learners.learner import Learner as Learner
    from tril_gym.agents.learners.optimizer import OptimizerConfig as OptimizerConfig
    from tril_gym.agents.learners.optimizer import adamw as adamw
    from tril_gym.agents.learners.optimizer import set_learning_rate as set_learning_rate
    from tril_gym.agents.tiny import tiny_guide as tiny_guide
    from tril_gym.agents.tiny import tiny_policy as tiny_policy
    from tril_gym.models.texts import Texts as Texts
    from tril_gym.utils.config_fields import config_field as config_field

_MODULES = {
    "Actor": "tril_gym.agents.collection.actor",
    "ActorCritic": "tril_gym.agents.learners.actor_critic",
    "ActorCriticConfig": "tril_gym.agents.learners.actor_critic_config",
    "AdapterHandOver": "tril_gym.agents.actors.served_policy",
    "AdversarialConfig": "tril_gym.agents.learners.adversarial",
    "AdversarialLearner": "tril_gym.agents.learners.adversarial",
    "Agent": "tril_gym.agents.algorithms.agent",
    "AggreVaTeD": "tril_gym.agents.algorithms.aggrevated",
    "AggreVaTeDConfig": "tril_gym.agents.algorithms.aggrevated",
    "BC": "tril_gym.agents.algorithms.bc",
    "BCConfig": "tril_gym.agents.algorithms.bc",
    "BehaviourCloning": "tril_gym.agents.learners.behaviour_cloning",
    "Callback": "tril_gym.agents.algorithms.callback",
    "Critic": "tril_gym.agents.learners.critic",
    "D2LOLS": "tril_gym.agents.algorithms.d2lols",
    "D2LOLSConfig": "tril_gym.agents.algorithms.d2lols",
    "Discriminator": "tril_gym.agents.learners.discriminator",
    "FolderHandOver": "tril_gym.agents.actors.served_policy",
    "GAIL": "tril_gym.agents.algorithms.gail",
    "GAILConfig": "tril_gym.agents.algorithms.gail",
    "Guide": "tril_gym.agents.actors.guide",
    "GuidedAgent": "tril_gym.agents.algorithms.agent",
    "History": "tril_gym.agents.algorithms.report",
    "LMPolicy": "tril_gym.agents.actors.policy",
    "LOLS": "tril_gym.agents.algorithms.lols",
    "LOLSConfig": "tril_gym.agents.algorithms.lols",
    "Learner": "tril_gym.agents.learners.learner",
    "OptimizerConfig": "tril_gym.agents.learners.optimizer",
    "PPO": "tril_gym.agents.algorithms.ppo",
    "PPOConfig": "tril_gym.agents.algorithms.ppo",
    "PPOPlusPlus": "tril_gym.agents.algorithms.ppo_pp",
    "PPOPlusPlusConfig": "tril_gym.agents.algorithms.ppo_pp",
    "Plan": "tril_gym.agents.collection.plan",
    "ReferenceTokens": "tril_gym.agents.actors.references",
    "References": "tril_gym.agents.actors.references",
    "Report": "tril_gym.agents.algorithms.report",
    "ServedPolicy": "tril_gym.agents.actors.served_policy",
    "StopTraining": "tril_gym.agents.algorithms.callback",
    "TextLayout": "tril_gym.agents.collection.layout",
    "Texts": "tril_gym.models.texts",
    "Trajectories": "tril_gym.agents.collection.trajectories",
    "Writer": "tril_gym.agents.collection.actor",
    "adamw": "tril_gym.agents.learners.optimizer",
    "collect": "tril_gym.agents.collection.collector",
    "config_field": "tril_gym.utils.config_fields",
    "load_into_sglang": "tril_gym.agents.actors.served_policy",
    "set_learning_rate": "tril_gym.agents.learners.optimizer",
    "tiny_guide": "tril_gym.agents.tiny",
    "tiny_policy": "tril_gym.agents.tiny",
}
__all__ = [*_MODULES]
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
