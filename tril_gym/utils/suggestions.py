"""Suggestions for names that do not exist: "unknown reward 'rouge_L' (did you mean 'rouge_l'?)"."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

CUTOFF = 0.67  # of difflib's similarity, 0 to 1
SHORTEST = 3  # characters of a name that is searched for inside others


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to a name, but for upper case, `_` and `-`; None if none is similar.

    A known name that alone contains the name is similar, as "tril/IMDB-v0" is to "imdb". "+" is read as "p", so that
    "ppo++" is similar to "ppo-pp".
    """
    plain = {_plain(other): other for other in map(str, known)}  # a column of pandas may have a number for a name
    searched = _plain(name)
    if searched in plain:
        return plain[searched]
    containing = [other for other in plain if searched in other and len(searched) >= SHORTEST]
    similar = difflib.get_close_matches(searched, plain, n=1, cutoff=CUTOFF)
    found = containing if len(containing) == 1 else similar
    return plain[found[0]] if found else None


def with_suggestion(name: str, known: Iterable[str]) -> str:
    """Return a name in quotes, followed by the similar one among those that exist, where there is one."""
    return repr(name) + suggestion(name, known)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean …?)" with the similar name among those that exist; "" where there is none."""
    found = closest(name, known)
    return "" if found in (None, name) else f" (did you mean {found!r}?)"


def path_with_suggestion(path: str, known: Iterable[str] = ()) -> str:
    """Return a path in quotes that does not exist, followed by a similar one in the same folder, if there is one.

    Args:
        path: of a file or folder.
        known: names that are no paths but could have been meant.
    """
    if (other := closest(path, known)) is not None:
        return f"{path!r} (did you mean {other!r}?)"
    parent, name = os.path.split(path.rstrip("/"))
    try:
        names = [entry.name for entry in Path(parent or ".").iterdir()]
    except OSError:
        names = []
    found = closest(name, names) if name else None
    return repr(path) if found in (None, name) else f"{path!r} (did you mean {os.path.join(parent, str(found))!r}?)"


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "-", name.casefold().replace("+", "p"))
