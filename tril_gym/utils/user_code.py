"""Code of the user's own, named module:function, as the command line and specs of environments can name it."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

FUNCTION = re.compile(r"([^\W\d][\w.]*):([^\W\d]\w*)")  # names on the hub have no colon


def is_function(name: str) -> bool:
    """Whether a name is module:function, and no folder of that name."""
    return FUNCTION.fullmatch(name) is not None and not Path(name).exists()


def function_of(name: str, *, what: str) -> Any:
    """Return what module:function names.

    Args:
        name: module:function; the module is looked for in the current folder, too.
        what: the name as the user gave it, such as "--guide my_guides:cautious", for messages.

    Raises:
        ValueError: there is no such module, or nothing to call of that name in it.
    """
    module, _, attribute = name.partition(":")
    try:
        found = import_module(module)
    except ImportError as error:
        raise ValueError(f"{what} is module:function, but there is no such module to import here ({error})") from error
    if not callable(getattr(found, attribute, None)):
        kind = "no function" if not hasattr(found, attribute) else "something that is no function"
        raise ValueError(f"{what}: {found.__file__} has {kind} of the name {attribute}")
    return getattr(found, attribute)


def import_module(module: str) -> ModuleType:
    """Import a module; also from the current folder, where a console script does not look by itself."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    return importlib.import_module(module)
