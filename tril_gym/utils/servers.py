"""Addresses of inference servers, as settings hold them: http://host:port/v1#model.

An address has no key and no password: settings are written to files and trackers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from tril_gym.utils.config_fields import check_bounds, config_field

EXAMPLE = "http://localhost:8000/v1#model"
KEY_VARIABLE = "TRIL_GYM_SERVER_KEY"  # environment variable with the key of a server
MAX_REQUESTS, MAX_RETRIES = 1000, 100
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_ENDPOINTS = {"/chat/completions": True, "/completions": False}


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """How a server is asked."""

    token_ids: bool | None = config_field(None, "Whether token ids are exchanged, not text; None: where it can")
    concurrency: int = config_field(16, "Most requests at once", minimum=1, maximum=MAX_REQUESTS)
    retries: int = config_field(5, "Further attempts after one that failed", minimum=0, maximum=MAX_RETRIES)
    pause: float = config_field(
        1.0, "Seconds before the second attempt; each further pause is twice as long", minimum=0
    )
    timeout: float = config_field(120.0, "Seconds without a sign of the server after which an attempt fails", above=0)
    cache: str | None = config_field(None, "Folder with the answers, so that a resumed run gets the same ones")
    key_variable: str = config_field(KEY_VARIABLE, "Environment variable with the server's key")

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True)
class ServerAddress:
    """An inference server and the model to ask there."""

    url: str  # of the API, such as http://localhost:8000/v1
    model: str
    is_chat: bool = False  # whether /chat/completions is asked, not /completions

    @staticmethod
    def parse(address: str, model: str | None = None) -> ServerAddress:
        """Read an address: the URL of the API or of one of its endpoints, and the model after "#".

        Args:
            address: such as http://localhost:8000/v1#model, or http://localhost:8000/v1/chat/completions#model.
            model: the model, where the address does not name it.

        Raises:
            ValueError: it is no such address, or it has a password, which belongs in an environment variable.
        """
        shown = shown_address(address)
        try:
            parts = urlsplit(address.strip())
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{shown} is no address of a server ({error}); write {EXAMPLE}") from None
        if parts.username is not None or parts.query:
            raise ValueError(
                f"the address of a server must not hold a key, a password or a query, got {shown}; put the key in the"
                f" environment variable {KEY_VARIABLE}"
            )
        if parts.scheme.lower() not in ("http", "https") or not parts.hostname or port == 0:
            raise ValueError(f"{shown} is no address of a server; write {EXAMPLE}")
        if parts.fragment and model is not None and parts.fragment != model:
            raise ValueError(f"the address names the model {parts.fragment!r}, and model={model!r}; name one")
        name = model or parts.fragment
        if not name:
            raise ValueError(f"the address must name the model of the server after #, got {shown}; write {EXAMPLE}")
        path, is_chat = _api_path(parts.path)
        if not path:
            root = f"{parts.scheme}://{parts.netloc}"
            raise ValueError(f"{shown} has no path to the API, which is /v1 as a rule; write {root}/v1#{name}")
        return ServerAddress(f"{parts.scheme.lower()}://{parts.netloc}{path}", name, is_chat)

    @property
    def root(self) -> str:
        """The address without the path's last part, below which servers have endpoints of their own."""
        return self.url.rpartition("/")[0]

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine, so that no proxy stands between."""
        return urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")

    def __str__(self) -> str:
        return f"{self.url}{'/chat/completions' if self.is_chat else ''}#{self.model}"


def _api_path(path: str) -> tuple[str, bool]:
    """Return the path of the API, and whether it is followed by the endpoint of chats."""
    path = path.rstrip("/")
    for endpoint, is_chat in _ENDPOINTS.items():
        if path.endswith(endpoint):
            return path.removesuffix(endpoint), is_chat
    return path, False


def is_server_address(name: str) -> bool:
    """Return whether a name is the address of a server, not that of a model or a function."""
    return _ADDRESS.match(name.strip()) is not None


def shown_address(address: str) -> str:
    """Return an address without its user, password and query, for messages."""
    return re.sub(r"\?[^#]*", "?…", re.sub(r"://[^/#?]*@", "://…@", address.strip()))
