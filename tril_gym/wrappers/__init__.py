"""Wrappers of text environments. Each wraps a single or a vector environment under the same name."""

from tril_gym.wrappers.action_masking import ActionMasking
from tril_gym.wrappers.reward_term import Term, terms
from tril_gym.wrappers.text_observation import TextObservation
from tril_gym.wrappers.text_reward import TextReward
from tril_gym.wrappers.whole_text import WholeText
from tril_gym.wrappers.without_info import WithoutInfo

__all__ = ["ActionMasking", "Term", "TextObservation", "TextReward", "WholeText", "WithoutInfo", "terms"]
