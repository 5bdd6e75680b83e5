"""Which version of this package wrote a file. Versions with the same first two numbers read each other's files."""

from __future__ import annotations

import re

from tril_gym import __version__


def check_not_newer(written: str, what: str) -> None:
    """Check that no newer version wrote a file.

    Args:
        written: the version that stands in the file.
        what: the file, for the message.

    Raises:
        ValueError: a version whose first two numbers are higher wrote it.
    """
    if _numbers(written) > _numbers(__version__):
        raise ValueError(
            f"tril-gym {written} wrote {what}, which {__version__} cannot read; use tril-gym {written} or newer for it"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
