"""Rewards: scores of finished texts, by name. `load("rouge_l")` gives one, `names()` lists them."""

from tril_gym.rewards.catalogue import as_score, describe, load, names
from tril_gym.rewards.score import CorpusScore, PooledScore, Score

__all__ = ["CorpusScore", "PooledScore", "Score", "as_score", "describe", "load", "names"]
