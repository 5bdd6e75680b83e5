"""A run folder from somebody else runs no code, and its settings hold no secrets.

Names of code in the settings of a folder, `module:function`, `FILE.py:function`, `module:id` or the address of a
server, are used only where the user names them, too, or trusts the folder. Values whose names are those of keys and
passwords are masked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tril_gym.utils.config_fields import flag_of
from tril_gym.utils.user_code import FUNCTION_NAME

MASK = "********"

CODE_ID = re.compile(r"[^\W\d][\w.]*:[\w./-]+-v\d+")  # module:id of an environment
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
CODE_FIELDS = ("algorithm", "env", "guide", "reward", "env_args")
# Settings that let libraries run code which comes with a model, or programs from a folder.
CODE_SETTINGS = ("trust_remote_code", "corenlp", "pipeline")

SECRET_NAME = re.compile(
    r"(^|_)(api_?key|access_?key|private_?key|secret|password|passwd|passphrase|credentials?|authorization|bearer)(_|$)"
    r"|(^|_)(key|token|tokens|keys|auth)$",
    re.IGNORECASE,
)
NO_SECRET = re.compile(r"^(bos|eos|pad|unk|sep|cls|mask|stop|special|image|start|end|max|min|num|new)_", re.IGNORECASE)
USER_IN_ADDRESS = re.compile(r"(://)[^/@\s]+@")


def check_trusted(
    settings: Mapping[str, Any], named: Mapping[str, Any], *, where: str | Path, trust_code: bool
) -> None:
    """Check that the settings of a run folder name no code but what the user names as well.

    Args:
        settings: of the folder.
        named: settings that the user gave.
        where: the file of the settings, for the message.
        trust_code: the user trusts the folder.

    Raises:
        ValueError: they name other code.
    """
    if trust_code:
        return
    own = set(code_in(named))
    foreign = [(option, name) for option, name in code_in(settings) if (option, name) not in own]
    if foreign:
        option, name = foreign[0]
        setting, otherwise = (
            ("algorithm", "give it as the first argument of train")  # no option of evaluate
            if option == "algorithm"
            else (flag_of(option), "name it yourself on the command line")
        )
        raise ValueError(
            f"{where} names code that would be run, {setting} {name}; if you trust it, add --trust-code, or {otherwise}"
        )


def code_in(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the settings that name code, each with the name."""
    for option, value in settings.items():
        if option in CODE_FIELDS:
            yield from (
                (option, text) for text in _strings(value) if _is_code(text) or (option == "env" and ":" in text)
            )
        yield from ((option, f"{name}={content}") for name, content in _pairs(option, value) if name in CODE_SETTINGS)


def _is_code(text: str) -> bool:
    return any(form.fullmatch(text) for form in (FUNCTION_NAME, CODE_ID)) or ADDRESS.match(text) is not None


def _strings(value: Any) -> Iterator[str]:
    """Yield all texts in a value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, content in value.items():
            yield from _strings(key)
            yield from _strings(content)
    elif isinstance(value, list | tuple):
        for content in value:
            yield from _strings(content)


def _pairs(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield a setting and those inside it by name, without those that are unset."""
    if isinstance(value, Mapping):
        for key, content in value.items():
            yield from _pairs(str(key), content)
    elif value not in (None, False):
        yield name, value


def is_secret(name: str) -> bool:
    """Return whether a setting of this name holds a key, a token or a password."""
    return SECRET_NAME.search(name) is not None and NO_SECRET.match(name) is None


def masked(value: Any, *, name: str = "") -> Any:
    """Return settings with a mask in place of each text that is a secret, and of users in addresses."""
    if isinstance(value, Mapping):
        return {key: masked(content, name=str(key)) for key, content in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(masked(content, name=name) for content in value)
    if isinstance(value, str):
        return MASK if value and is_secret(name) else USER_IN_ADDRESS.sub(rf"\1{MASK}@", value)
    return value


def unmasked(saved: Any, given: Any, *, name: str = "") -> Any:
    """Return saved settings with what the user gave in place of masks.

    Raises:
        ValueError: the user gave nothing for a mask.
    """
    if isinstance(saved, Mapping):
        own = given if isinstance(given, Mapping) else {}
        return {
            key: unmasked(content, own.get(key), name=f"{name}.{key}" if name else key)
            for key, content in saved.items()
        }
    if isinstance(saved, str) and MASK in saved:
        if isinstance(given, str) and masked(given, name=name.rpartition(".")[2]) == saved:
            return given
        raise ValueError(f"{name} is a secret, which a run folder does not hold; give it again, as when the run began")
    return saved
