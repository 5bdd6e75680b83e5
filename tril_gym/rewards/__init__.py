"""Rewards: scores of finished texts, by name. `load("rouge_l")` gives one, `names()` lists them."""

from tril_gym.rewards.catalogue import as_score, describe, load, names
from tril_gym.rewards.score import Score

__all__ = ["Score", "as_score", "describe", "load", "names"]
