"""The algorithms of the RLGF paper and their relatives, with their own tests of everything.

The family of group and pair algorithms shares their loop; `tests/agents/algorithms/test_family.py` is about it.
"""

SEVEN = ("bc", "ppo", "ppo-pp", "aggrevated", "lols", "d2lols", "gail")
