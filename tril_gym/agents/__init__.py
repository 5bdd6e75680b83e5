"""Agents: language models that learn in text environments, alone or with a guide."""

from tril_gym.agents.actors.guide import Guide
from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.algorithms.agent import Agent
from tril_gym.agents.algorithms.aggrevated import AggreVaTeD, AggreVaTeDConfig
from tril_gym.agents.algorithms.bc import BC, BCConfig
from tril_gym.agents.algorithms.d2lols import D2LOLS, D2LOLSConfig
from tril_gym.agents.algorithms.gail import GAIL, GAILConfig
from tril_gym.agents.algorithms.lols import LOLS, LOLSConfig
from tril_gym.agents.algorithms.ppo import PPO, PPOConfig
from tril_gym.agents.algorithms.ppo_pp import PPOPlusPlus, PPOPlusPlusConfig
from tril_gym.agents.collection.actor import Actor, Writer
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.tiny import tiny_guide, tiny_policy

__all__ = [
    "BC",
    "D2LOLS",
    "GAIL",
    "LOLS",
    "PPO",
    "Actor",
    "Agent",
    "AggreVaTeD",
    "AggreVaTeDConfig",
    "BCConfig",
    "D2LOLSConfig",
    "GAILConfig",
    "Guide",
    "LMPolicy",
    "LOLSConfig",
    "PPOConfig",
    "PPOPlusPlus",
    "PPOPlusPlusConfig",
    "Plan",
    "TextLayout",
    "Trajectories",
    "Writer",
    "collect",
    "tiny_guide",
    "tiny_policy",
]
