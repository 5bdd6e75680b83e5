"""Data sets as examples: readers of files, sources, tokenizers, embedded data sets."""

from tril_gym.data.example import Example
from tril_gym.data.examples import Examples

__all__ = ["Example", "Examples"]
