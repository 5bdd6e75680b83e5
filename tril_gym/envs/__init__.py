"""The environments: what a step does, where examples come from, and what each task asks. Numpy only."""

from tril_gym.data.example import Example, Examples

__all__ = ["Example", "Examples"]
