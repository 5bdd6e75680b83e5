"""Agents: language models that learn in text environments, alone or with a guide."""

from tril_gym.agents.agent import Agent
from tril_gym.agents.bc import BC, BCConfig
from tril_gym.agents.collect import collect
from tril_gym.agents.guide import Guide
from tril_gym.agents.layout import TextLayout
from tril_gym.agents.plan import Actor, Plan, Writer
from tril_gym.agents.policy import LMPolicy
from tril_gym.agents.ppo import PPO, PPOConfig
from tril_gym.agents.ppo_pp import PPOPlusPlus, PPOPlusPlusConfig
from tril_gym.agents.trajectories import Trajectories

__all__ = [
    "BC",
    "PPO",
    "Actor",
    "Agent",
    "BCConfig",
    "Guide",
    "LMPolicy",
    "PPOConfig",
    "PPOPlusPlus",
    "PPOPlusPlusConfig",
    "Plan",
    "TextLayout",
    "Trajectories",
    "Writer",
    "collect",
]
