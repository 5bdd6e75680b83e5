"""Agents: language models that learn in text environments, alone or with a guide."""

from tril_gym.agents.agent import Agent
from tril_gym.agents.aggrevated import AggreVaTeD, AggreVaTeDConfig
from tril_gym.agents.bc import BC, BCConfig
from tril_gym.agents.collect import collect
from tril_gym.agents.d2lols import D2LOLS, D2LOLSConfig
from tril_gym.agents.gail import GAIL, GAILConfig
from tril_gym.agents.guide import Guide
from tril_gym.agents.layout import TextLayout
from tril_gym.agents.lols import LOLS, LOLSConfig
from tril_gym.agents.plan import Actor, Plan, Writer
from tril_gym.agents.policy import LMPolicy
from tril_gym.agents.ppo import PPO, PPOConfig
from tril_gym.agents.ppo_pp import PPOPlusPlus, PPOPlusPlusConfig
from tril_gym.agents.trajectories import Trajectories

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
]
