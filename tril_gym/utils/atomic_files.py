"""Writing a folder so that nobody ever sees half of one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_folder(folder: Path, fill: Callable[[Path], None], *, mark: str) -> None:
    """Fill a new folder beside its place, then put it there in one step, instead of an older one of its kind.

    Args:
        folder: where it is to be.
        fill: writes into the empty folder that it is given. When it raises, nothing has changed.
        mark: a file that every folder of this kind has. Anything else that stands there is the user's and stays.

    Raises:
        ValueError: there is something else at that place.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file()):
        raise ValueError(f"{folder} holds something else; name a folder that is empty or does not exist")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft, old = (folder.with_name(f".{folder.name}.{part}-{os.getpid()}") for part in ("draft", "old"))
    try:
        draft.mkdir()
        fill(draft)
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write or replace a JSON file in one step."""
    replace_text(path, json.dumps(content, indent=2) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Write or replace a text file in one step."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)
