"""The torch device that a user names."""

from __future__ import annotations


def check_device(device: str, *, samples: bool = True) -> None:
    """Check that torch can use a device here.

    Args:
        device: its name.
        samples: whether tokens are sampled on it, for which probabilities are summed in float64.

    Raises:
        ValueError: it cannot.
    """
    import torch

    try:
        if samples:
            float(torch.ones(2, dtype=torch.float64, device=device).cumsum(0)[-1])
        else:
            torch.empty(0, device=device)
    except TypeError as error:  # of a device without float64, such as mps
        raise ValueError(
            f"the device {device!r} has no float64, in which token probabilities are summed; use cpu or cuda"
        ) from error
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"there is no device {device!r} here; the usual one is cpu ({reason})") from error
