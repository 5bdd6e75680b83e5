"""A folder with the answers of a server by request, so that the same request gets the same answer in a resumed run.

One JSON file per answer, written atomically: several processes may share the folder, and a killed one leaves no part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tril_gym.utils.atomic_files import replace_text


class AnswerCache:
    """Stores answers by request.

    Args:
        folder: it is created at the first answer.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"the cache of answers must be a folder, and {folder} is a file")
        self.folder = folder

    def get(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the answer to a request; None where there is none, or only a damaged one."""
        try:
            stored = json.loads(self._path(request).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        is_own = isinstance(stored, dict) and stored.get("request") == request
        return stored["answer"] if is_own else None

    def put(self, request: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Store an answer."""
        path = self._path(request)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps({"request": request, "answer": answer}) + "\n")

    def _path(self, request: Mapping[str, Any]) -> Path:
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.json"
