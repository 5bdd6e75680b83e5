"""Agents: language models that learn in text environments, alone or with a guide.

The public names load on first use (PEP 562): importing one takes seconds, for it imports torch and transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tril_gym.utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from tril_gym.agents.actors.guide import Guide as Guide
    from tril_gym.agents.actors.pairs import Pairs as Pairs
    from tril_gym.agents.actors.policy import LMPolicy as LMPolicy
    from tril_gym.agents.actors.references import References as References
    from tril_gym.agents.actors.references import ReferenceTokens as ReferenceTokens
    from tril_gym.agents.actors.served_policy import AdapterHandOver as AdapterHandOver
    from tril_gym.agents.actors.served_policy import FolderHandOver as FolderHandOver
    from tril_gym.agents.actors.served_policy import ServedPolicy as ServedPolicy
    from tril_gym.agents.actors.served_policy import load_into_sglang as load_into_sglang
    from tril_gym.agents.algorithms.a_lol import ALoL as ALoL
    from tril_gym.agents.algorithms.a_lol import ALoLConfig as ALoLConfig
    from tril_gym.agents.algorithms.a_star_po import AStarPO as AStarPO
    from tril_gym.agents.algorithms.a_star_po import AStarPOConfig as AStarPOConfig
    from tril_gym.agents.algorithms.agent import Agent as Agent
    from tril_gym.agents.algorithms.agent import GuidedAgent as GuidedAgent
    from tril_gym.agents.algorithms.aggrevated import AggreVaTeD as AggreVaTeD
    from tril_gym.agents.algorithms.aggrevated import AggreVaTeDConfig as AggreVaTeDConfig
    from tril_gym.agents.algorithms.apa import APA as APA
    from tril_gym.agents.algorithms.apa import APAConfig as APAConfig
    from tril_gym.agents.algorithms.bc import BC as BC
    from tril_gym.agents.algorithms.bc import BCConfig as BCConfig
    from tril_gym.agents.algorithms.callback import Callback as Callback
    from tril_gym.agents.algorithms.callback import StopTraining as StopTraining
    from tril_gym.agents.algorithms.cispo import CISPO as CISPO
    from tril_gym.agents.algorithms.cispo import CISPOConfig as CISPOConfig
    from tril_gym.agents.algorithms.critic_free import CriticFree as CriticFree
    from tril_gym.agents.algorithms.d2lols import D2LOLS as D2LOLS
    from tril_gym.agents.algorithms.d2lols import D2LOLSConfig as D2LOLSConfig
    from tril_gym.agents.algorithms.dagger import DAgger as DAgger
    from tril_gym.agents.algorithms.dagger import DAggerConfig as DAggerConfig
    from tril_gym.agents.algorithms.dapo import DAPO as DAPO
    from tril_gym.agents.algorithms.dapo import DAPOConfig as DAPOConfig
    from tril_gym.agents.algorithms.dpo import DPO as DPO
    from tril_gym.agents.algorithms.dpo import DPOConfig as DPOConfig
    from tril_gym.agents.algorithms.dr_grpo import DrGRPO as DrGRPO
    from tril_gym.agents.algorithms.dr_grpo import DrGRPOConfig as DrGRPOConfig
    from tril_gym.agents.algorithms.dr_po import DRPO as DRPO
    from tril_gym.agents.algorithms.dr_po import DRPOConfig as DRPOConfig
    from tril_gym.agents.algorithms.gail import GAIL as GAIL
    from tril_gym.agents.algorithms.gail import GAILConfig as GAILConfig
    from tril_gym.agents.algorithms.gkd import GKD as GKD
    from tril_gym.agents.algorithms.gkd import GKDConfig as GKDConfig
    from tril_gym.agents.algorithms.grpo import GRPO as GRPO
    from tril_gym.agents.algorithms.grpo import GRPOConfig as GRPOConfig
    from tril_gym.agents.algorithms.gspo import GSPO as GSPO
    from tril_gym.agents.algorithms.gspo import GSPOConfig as GSPOConfig
    from tril_gym.agents.algorithms.ipo import IPO as IPO
    from tril_gym.agents.algorithms.ipo import IPOConfig as IPOConfig
    from tril_gym.agents.algorithms.lols import LOLS as LOLS
    from tril_gym.agents.algorithms.lols import LOLSConfig as LOLSConfig
    from tril_gym.agents.algorithms.online_dpo import OnlineDPO as OnlineDPO
    from tril_gym.agents.algorithms.online_dpo import OnlineDPOConfig as OnlineDPOConfig
    from tril_gym.agents.algorithms.p3o import P3O as P3O
    from tril_gym.agents.algorithms.p3o import P3OConfig as P3OConfig
    from tril_gym.agents.algorithms.ppg import PPG as PPG
    from tril_gym.agents.algorithms.ppg import PPGConfig as PPGConfig
    from tril_gym.agents.algorithms.ppo import PPO as PPO
    from tril_gym.agents.algorithms.ppo import PPOConfig as PPOConfig
    from tril_gym.agents.algorithms.ppo_pp import PPOPlusPlus as PPOPlusPlus
    from tril_gym.agents.algorithms.ppo_pp import PPOPlusPlusConfig as PPOPlusPlusConfig
    from tril_gym.agents.algorithms.raft import RAFT as RAFT
    from tril_gym.agents.algorithms.raft import RAFTConfig as RAFTConfig
    from tril_gym.agents.algorithms.rebel import REBEL as REBEL
    from tril_gym.agents.algorithms.rebel import REBELConfig as REBELConfig
    from tril_gym.agents.algorithms.reinforce_pp import ReinforcePlusPlus as ReinforcePlusPlus
    from tril_gym.agents.algorithms.reinforce_pp import ReinforcePlusPlusConfig as ReinforcePlusPlusConfig
    from tril_gym.agents.algorithms.remax import ReMax as ReMax
    from tril_gym.agents.algorithms.remax import ReMaxConfig as ReMaxConfig
    from tril_gym.agents.algorithms.report import History as History
    from tril_gym.agents.algorithms.report import Report as Report
    from tril_gym.agents.algorithms.rloo import RLOO as RLOO
    from tril_gym.agents.algorithms.rloo import RLOOConfig as RLOOConfig
    from tril_gym.agents.algorithms.rso import RSO as RSO
    from tril_gym.agents.algorithms.rso import RSOConfig as RSOConfig
    from tril_gym.agents.algorithms.vineppo import VinePPO as VinePPO
    from tril_gym.agents.algorithms.vineppo import VinePPOConfig as VinePPOConfig
    from tril_gym.agents.collection.actor import Actor as Actor
    from tril_gym.agents.collection.actor import Writer as Writer
    from tril_gym.agents.collection.best_of import BestOf as BestOf
    from tril_gym.agents.collection.collector import collect as collect
    from tril_gym.agents.collection.cuts import BackwardCut as BackwardCut
    from tril_gym.agents.collection.cuts import BinomialCut as BinomialCut
    from tril_gym.agents.collection.cuts import Cut as Cut
    from tril_gym.agents.collection.cuts import ShareCut as ShareCut
    from tril_gym.agents.collection.cuts import UniformCut as UniformCut
    from tril_gym.agents.collection.layout import TextLayout as TextLayout
    from tril_gym.agents.collection.plan import Plan as Plan
    from tril_gym.agents.collection.trajectories import Trajectories as Trajectories
    from tril_gym.agents.learners.actor_critic import ActorCritic as ActorCritic
    from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig as ActorCriticConfig
    from tril_gym.agents.learners.adversarial import AdversarialLearner as AdversarialLearner
    from tril_gym.agents.learners.adversarial_config import AdversarialConfig as AdversarialConfig
    from tril_gym.agents.learners.behaviour_cloning import BehaviourCloning as BehaviourCloning
    from tril_gym.agents.learners.critic import Critic as Critic
    from tril_gym.agents.learners.critic_free_config import CriticFreeConfig as CriticFreeConfig
    from tril_gym.agents.learners.discriminator import Discriminator as Discriminator
    from tril_gym.agents.learners.distillation import Distillation as Distillation
    from tril_gym.agents.learners.distillation import DistillationConfig as DistillationConfig
    from tril_gym.agents.learners.learner import Learner as Learner
    from tril_gym.agents.learners.optimizer import OptimizerConfig as OptimizerConfig
    from tril_gym.agents.learners.optimizer import adamw as adamw
    from tril_gym.agents.learners.optimizer import set_learning_rate as set_learning_rate
    from tril_gym.agents.learners.phasic import Phasic as Phasic
    from tril_gym.agents.learners.phasic import PhasicConfig as PhasicConfig
    from tril_gym.agents.learners.policy_config import PolicyConfig as PolicyConfig
    from tril_gym.agents.learners.policy_config import RewardConfig as RewardConfig
    from tril_gym.agents.tiny import tiny_guide as tiny_guide
    from tril_gym.agents.tiny import tiny_policy as tiny_policy
    from tril_gym.models.texts import Texts as Texts
    from tril_gym.utils.config_fields import config_field as config_field
    from tril_gym.utils.ranks import join_ranks as join_ranks

_MODULES = {
    "ALoL": "tril_gym.agents.algorithms.a_lol",
    "ALoLConfig": "tril_gym.agents.algorithms.a_lol",
    "APA": "tril_gym.agents.algorithms.apa",
    "APAConfig": "tril_gym.agents.algorithms.apa",
    "AStarPO": "tril_gym.agents.algorithms.a_star_po",
    "AStarPOConfig": "tril_gym.agents.algorithms.a_star_po",
    "Actor": "tril_gym.agents.collection.actor",
    "ActorCritic": "tril_gym.agents.learners.actor_critic",
    "ActorCriticConfig": "tril_gym.agents.learners.actor_critic_config",
    "AdapterHandOver": "tril_gym.agents.actors.served_policy",
    "AdversarialConfig": "tril_gym.agents.learners.adversarial_config",
    "AdversarialLearner": "tril_gym.agents.learners.adversarial",
    "Agent": "tril_gym.agents.algorithms.agent",
    "AggreVaTeD": "tril_gym.agents.algorithms.aggrevated",
    "AggreVaTeDConfig": "tril_gym.agents.algorithms.aggrevated",
    "BC": "tril_gym.agents.algorithms.bc",
    "BCConfig": "tril_gym.agents.algorithms.bc",
    "BackwardCut": "tril_gym.agents.collection.cuts",
    "BehaviourCloning": "tril_gym.agents.learners.behaviour_cloning",
    "BestOf": "tril_gym.agents.collection.best_of",
    "BinomialCut": "tril_gym.agents.collection.cuts",
    "CISPO": "tril_gym.agents.algorithms.cispo",
    "CISPOConfig": "tril_gym.agents.algorithms.cispo",
    "Callback": "tril_gym.agents.algorithms.callback",
    "Critic": "tril_gym.agents.learners.critic",
    "CriticFree": "tril_gym.agents.algorithms.critic_free",
    "CriticFreeConfig": "tril_gym.agents.learners.critic_free_config",
    "Cut": "tril_gym.agents.collection.cuts",
    "D2LOLS": "tril_gym.agents.algorithms.d2lols",
    "D2LOLSConfig": "tril_gym.agents.algorithms.d2lols",
    "DAPO": "tril_gym.agents.algorithms.dapo",
    "DAPOConfig": "tril_gym.agents.algorithms.dapo",
    "DAgger": "tril_gym.agents.algorithms.dagger",
    "DAggerConfig": "tril_gym.agents.algorithms.dagger",
    "DPO": "tril_gym.agents.algorithms.dpo",
    "DPOConfig": "tril_gym.agents.algorithms.dpo",
    "DRPO": "tril_gym.agents.algorithms.dr_po",
    "DRPOConfig": "tril_gym.agents.algorithms.dr_po",
    "Discriminator": "tril_gym.agents.learners.discriminator",
    "Distillation": "tril_gym.agents.learners.distillation",
    "DistillationConfig": "tril_gym.agents.learners.distillation",
    "DrGRPO": "tril_gym.agents.algorithms.dr_grpo",
    "DrGRPOConfig": "tril_gym.agents.algorithms.dr_grpo",
    "FolderHandOver": "tril_gym.agents.actors.served_policy",
    "GAIL": "tril_gym.agents.algorithms.gail",
    "GAILConfig": "tril_gym.agents.algorithms.gail",
    "GKD": "tril_gym.agents.algorithms.gkd",
    "GKDConfig": "tril_gym.agents.algorithms.gkd",
    "GRPO": "tril_gym.agents.algorithms.grpo",
    "GRPOConfig": "tril_gym.agents.algorithms.grpo",
    "GSPO": "tril_gym.agents.algorithms.gspo",
    "GSPOConfig": "tril_gym.agents.algorithms.gspo",
    "Guide": "tril_gym.agents.actors.guide",
    "GuidedAgent": "tril_gym.agents.algorithms.agent",
    "History": "tril_gym.agents.algorithms.report",
    "IPO": "tril_gym.agents.algorithms.ipo",
    "IPOConfig": "tril_gym.agents.algorithms.ipo",
    "LMPolicy": "tril_gym.agents.actors.policy",
    "LOLS": "tril_gym.agents.algorithms.lols",
    "LOLSConfig": "tril_gym.agents.algorithms.lols",
    "Learner": "tril_gym.agents.learners.learner",
    "OnlineDPO": "tril_gym.agents.algorithms.online_dpo",
    "OnlineDPOConfig": "tril_gym.agents.algorithms.online_dpo",
    "OptimizerConfig": "tril_gym.agents.learners.optimizer",
    "P3O": "tril_gym.agents.algorithms.p3o",
    "P3OConfig": "tril_gym.agents.algorithms.p3o",
    "PPG": "tril_gym.agents.algorithms.ppg",
    "PPGConfig": "tril_gym.agents.algorithms.ppg",
    "PPO": "tril_gym.agents.algorithms.ppo",
    "PPOConfig": "tril_gym.agents.algorithms.ppo",
    "PPOPlusPlus": "tril_gym.agents.algorithms.ppo_pp",
    "PPOPlusPlusConfig": "tril_gym.agents.algorithms.ppo_pp",
    "Pairs": "tril_gym.agents.actors.pairs",
    "Phasic": "tril_gym.agents.learners.phasic",
    "PhasicConfig": "tril_gym.agents.learners.phasic",
    "Plan": "tril_gym.agents.collection.plan",
    "PolicyConfig": "tril_gym.agents.learners.policy_config",
    "RAFT": "tril_gym.agents.algorithms.raft",
    "RAFTConfig": "tril_gym.agents.algorithms.raft",
    "REBEL": "tril_gym.agents.algorithms.rebel",
    "REBELConfig": "tril_gym.agents.algorithms.rebel",
    "RLOO": "tril_gym.agents.algorithms.rloo",
    "RLOOConfig": "tril_gym.agents.algorithms.rloo",
    "RSO": "tril_gym.agents.algorithms.rso",
    "RSOConfig": "tril_gym.agents.algorithms.rso",
    "ReMax": "tril_gym.agents.algorithms.remax",
    "ReMaxConfig": "tril_gym.agents.algorithms.remax",
    "ReferenceTokens": "tril_gym.agents.actors.references",
    "References": "tril_gym.agents.actors.references",
    "ReinforcePlusPlus": "tril_gym.agents.algorithms.reinforce_pp",
    "ReinforcePlusPlusConfig": "tril_gym.agents.algorithms.reinforce_pp",
    "Report": "tril_gym.agents.algorithms.report",
    "RewardConfig": "tril_gym.agents.learners.policy_config",
    "ServedPolicy": "tril_gym.agents.actors.served_policy",
    "ShareCut": "tril_gym.agents.collection.cuts",
    "StopTraining": "tril_gym.agents.algorithms.callback",
    "TextLayout": "tril_gym.agents.collection.layout",
    "Texts": "tril_gym.models.texts",
    "Trajectories": "tril_gym.agents.collection.trajectories",
    "UniformCut": "tril_gym.agents.collection.cuts",
    "VinePPO": "tril_gym.agents.algorithms.vineppo",
    "VinePPOConfig": "tril_gym.agents.algorithms.vineppo",
    "Writer": "tril_gym.agents.collection.actor",
    "adamw": "tril_gym.agents.learners.optimizer",
    "collect": "tril_gym.agents.collection.collector",
    "config_field": "tril_gym.utils.config_fields",
    "join_ranks": "tril_gym.utils.ranks",
    "load_into_sglang": "tril_gym.agents.actors.served_policy",
    "set_learning_rate": "tril_gym.agents.learners.optimizer",
    "tiny_guide": "tril_gym.agents.tiny",
    "tiny_policy": "tril_gym.agents.tiny",
}
__all__ = [*_MODULES]
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
