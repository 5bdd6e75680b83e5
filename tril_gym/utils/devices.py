"""The torch device that a user names."""

from __future__ import annotations


def check_device(device: str) -> None:
    """Check that torch can use a device here, and sum in float64 on it, as the sampling of tokens does.

    Raises:
        ValueError: it cannot.
    """
    import torch

    try:
        float(torch.ones(2, dtype=torch.float64, device=device).cumsum(0)[-1])
    except TypeError as error:  # of a device without float64, such as mps
        raise ValueError(
            f"the device {device!r} has no float64, in which token probabilities are summed; use cpu or cuda"
        ) from error
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"there is no device {device!r} here; the usual one is cpu ({reason})") from error
