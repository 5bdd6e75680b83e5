"""Rewards: scores of finished texts, by name. `load("rouge_l")` returns one, `names()` lists them."""

from tril_gym.rewards.base import CorpusScore, PooledScore, Score
from tril_gym.rewards.functions import on_main_process, per_text, with_retries
from tril_gym.rewards.registry import as_score, describe, load, names, settings_of

__all__ = [
    "CorpusScore",
    "PooledScore",
    "Score",
    "as_score",
    "describe",
    "load",
    "names",
    "on_main_process",
    "per_text",
    "settings_of",
    "with_retries",
]
