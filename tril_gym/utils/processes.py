"""The number of processes that a launcher such as torchrun started."""

from __future__ import annotations

import os


def check_single_process() -> None:
    """Check that this is not one of several processes of a launcher: each would train a run of its own.

    Raises:
        ValueError: the environment variable WORLD_SIZE, which torchrun and accelerate set, is not 1.
    """
    if (size := os.environ.get("WORLD_SIZE", "1")).strip() not in ("", "1"):
        raise ValueError(
            f"a run is trained by one process, got WORLD_SIZE={size}; start it without torchrun or accelerate launch,"
            " or unset WORLD_SIZE"
        )
