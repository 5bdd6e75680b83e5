"""Text generation as Gymnasium environments, and agents that learn in them, alone or with a guide.

Importing this registers the environments, and loads nothing heavy.
"""

import gymnasium as gym

__version__ = "0.1.0"

for _id, _task in {
    "tril/IMDB-v0": "imdb",
    "tril/CommonGen-v0": "common_gen",
    "tril/TLDR-v0": "tldr",
    "tril/Toy-v0": "toy",
}.items():
    gym.register(
        _id,
        entry_point="tril_gym.registration:make_text_env",
        vector_entry_point="tril_gym.registration:make_text_vector_env",
        kwargs={"task": _task},
    )
