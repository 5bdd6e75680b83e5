"""Folders that tests read."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"  # real data; tests that need it skip where it is absent
