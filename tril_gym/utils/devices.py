"""The torch device that a user names."""

from __future__ import annotations


def check_device(device: str) -> None:
    """Check that torch can use a device here.

    Raises:
        ValueError: it cannot.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"there is no device {device!r} here; the usual one is cpu ({reason})") from error
