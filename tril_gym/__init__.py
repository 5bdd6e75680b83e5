"""Text generation as Gymnasium environments, and agents that learn in them, alone or with a guide.

Importing the package registers the environments of `tril_gym.registration` with Gymnasium and loads nothing heavy.
Its one name is `__version__`; everything else is in the packages `tril_gym.agents`, `.data`, `.envs`, `.experiment`,
`.rewards` and `.wrappers`, whose `__all__` lists what is public.
"""

import gymnasium as gym

from tril_gym import registration

__version__ = "0.2.0.dev0"
__all__ = ["__version__"]

for _id in registration.ENVIRONMENTS:
    gym.register(
        _id,
        entry_point="tril_gym.registration:make_text_env",
        vector_entry_point="tril_gym.registration:make_text_vector_env",
        kwargs={"env_id": _id},
    )
