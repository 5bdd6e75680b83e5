"""The processes that a launcher such as torchrun started, as its environment variables tell."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

PROCESS_TIMEOUT = 7200.0  # seconds that one process waits for another: the main one may pretrain meanwhile


@dataclass(frozen=True)
class Processes:
    """How several processes train together."""

    shards: bool = False  # each holds a part of the trained models (FSDP2), else a replica of them
    sharded_writing: Literal["whole", "block"] = "whole"  # what is gathered at once of a sharded model that writes
    timeout: float = PROCESS_TIMEOUT

    def as_settings(self) -> dict[str, Any]:
        """Return the keywords of `join_ranks`."""
        by_block = self.sharded_writing == "block"
        return {"shards": self.shards, "writes_by_block": by_block, "timeout": self.timeout}


def started_processes() -> int:
    """Return how many processes were started together: the environment variable WORLD_SIZE, 1 without it.

    Raises:
        ValueError: it is no number.
    """
    size = os.environ.get("WORLD_SIZE", "").strip() or "1"
    if not size.isdigit() or int(size) < 1:
        raise ValueError(f"WORLD_SIZE must be a whole number from 1 on, got {size!r}; unset it, or use torchrun")
    return int(size)


def is_first_process() -> bool:
    """Return whether this process is the first one, or the only one."""
    return os.environ.get("RANK", "").strip() in ("", "0")
