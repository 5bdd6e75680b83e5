"""The user's own code, named "module:function", which the command line and specs of environments can hold."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

FUNCTION_NAME = re.compile(r"([^\W\d][\w.]*):([^\W\d]\w*)")  # names on the hub have no colon


def is_function_name(name: str) -> bool:
    """Return whether a name has the form module:function and no file or folder has this name."""
    return FUNCTION_NAME.fullmatch(name) is not None and not Path(name).exists()


def resolve_function(name: str, *, option: str) -> Any:
    """Return the function or class that "module:function" names.

    Args:
        name: module:function; the module may be in the current folder.
        option: the setting that holds the name, such as "--guide my_guides:cautious", for messages.

    Raises:
        ValueError: the module cannot be imported, or has nothing callable of that name.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = import_user_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"{option} is module:function, but there is no such module to import here ({error})"
        ) from error
    except Exception as error:  # of the user's code, such as SyntaxError
        raise ValueError(f"{option}: {module_name} cannot be imported: {type(error).__name__}: {error}") from error
    try:
        found = pkgutil.resolve_name(name)
    except AttributeError:
        raise ValueError(f"{option}: {module.__file__} has no function of the name {attribute}") from None
    if not callable(found):
        raise ValueError(f"{option}: {attribute} in {module.__file__} is not a function, but {found!r}")
    return found


def import_user_module(name: str) -> ModuleType:
    """Import a module, also from the current folder, which is not on the path of a console script."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    return importlib.import_module(name)
