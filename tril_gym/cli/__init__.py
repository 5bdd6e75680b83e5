"""The `tril-gym` command line."""

from tril_gym.cli.commands import main

__all__ = ["main"]
