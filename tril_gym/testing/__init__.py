"""Conformance checks for environments, rewards, guides and actors of your own: plain functions, for pytest or without.

Each raises `ConformanceError`, an `AssertionError`, that names the broken rule with the values that break it.
"""

from typing import TYPE_CHECKING

from tril_gym.utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from tril_gym.testing.actors import check_actor as check_actor
    from tril_gym.testing.actors import check_guide as check_guide
    from tril_gym.testing.conformance import ConformanceError as ConformanceError
    from tril_gym.testing.environments import check_env as check_env
    from tril_gym.testing.rewards import check_reward as check_reward
    from tril_gym.testing.vector_environments import check_vector_env as check_vector_env

_MODULES = {
    "ConformanceError": "tril_gym.testing.conformance",
    "check_actor": "tril_gym.testing.actors",  # this one and the next import torch
    "check_env": "tril_gym.testing.environments",
    "check_guide": "tril_gym.testing.actors",
    "check_reward": "tril_gym.testing.rewards",
    "check_vector_env": "tril_gym.testing.vector_environments",
}
__all__ = [*_MODULES]
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
