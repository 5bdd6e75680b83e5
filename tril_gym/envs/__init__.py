"""Text environments, made by `gym.make` and `gym.make_vec`. Numpy only.

Public names are the closed forms of the toy environment: its optimal texts and the value of a noisy guide.
"""

from tril_gym.envs.toy import ToyRules, guide_tokens, guide_value, optimal_completions, optimal_value

__all__ = ["ToyRules", "guide_tokens", "guide_value", "optimal_completions", "optimal_value"]
