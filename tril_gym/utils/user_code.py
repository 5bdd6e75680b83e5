"""The user's own code, named "module:function" or "FILE.py:function", as settings and specs can hold it."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from tril_gym.utils.suggestions import path_with_suggestion, suggestion

FUNCTION_NAME = re.compile(r"([^\W\d][\w.]*|.+\.py):([^\W\d]\w*)")  # names on the hub have no colon


def is_function_name(name: str) -> bool:
    """Return whether a name has the form module:function or FILE.py:function and no file or folder has this name."""
    return FUNCTION_NAME.fullmatch(name) is not None and not Path(name).exists()


def check_not_file_alone(name: str, *, option: str, kind: str = "function") -> None:
    """Raise if a name is that of a Python file, without a function in it; arguments as of `resolve_function`.

    Raises:
        ValueError: it ends in ".py".
    """
    if name.endswith(".py"):
        raise ValueError(f"{option} is a file without a {kind}; write {name}:{kind.upper()}")


def resolve_function(name: str, *, option: str, kind: str = "function") -> Any:
    """Return the function or class that "module:function" or "FILE.py:function" names.

    Args:
        name: module:function, of an installed module or one in the current folder; or FILE.py:function.
        option: the setting that holds the name, such as "--guide my_guides:cautious", for messages.
        kind: "function" or "class", for messages.

    Raises:
        ValueError: the module or file cannot be imported, or has nothing callable of that name.
    """
    module_name, _, attribute = name.rpartition(":")
    try:
        is_file = module_name.endswith(".py")
        module = _import_file(Path(module_name)) if is_file else import_user_module(module_name)
    except ModuleNotFoundError as error:
        if is_file:
            raise ValueError(f"{option}: {module_name} cannot be imported: {error}") from error
        raise ValueError(
            f"{option} is module:{kind}, but there is no such module to import here ({error}); a file is named with"
            f" its ending, FILE.py:{kind}"
        ) from error
    except FileNotFoundError as error:
        raise ValueError(f"{option}: {error}") from error
    except Exception as error:  # of the user's code, such as SyntaxError
        raise ValueError(f"{option}: {module_name} cannot be imported: {type(error).__name__}: {error}") from error
    try:
        found = getattr(module, attribute)
    except AttributeError:
        similar = suggestion(attribute, (name for name, value in vars(module).items() if callable(value)))
        raise ValueError(f"{option}: {module.__file__} has no {kind} of the name {attribute}{similar}") from None
    if not callable(found):
        raise ValueError(f"{option}: {attribute} in {module.__file__} is not a {kind}, but {found!r}")
    return found


def import_user_module(name: str) -> ModuleType:
    """Import a module, also from the current folder, which is not on the path of a console script."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    return importlib.import_module(name)


def _import_file(path: Path) -> ModuleType:
    """Import a file as the module of its name, so that processes which score texts can import it, too.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: another module has this name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path_with_suggestion(str(path))}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that it hides no library
    module = importlib.import_module(path.stem)
    origin = vars(module).get("__file__")
    if origin is None or Path(origin).resolve() != path.resolve():
        raise ImportError(f"a module of this name is {origin or 'built in'}; rename the file")
    return module
