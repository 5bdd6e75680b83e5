"""A server of llama.cpp in this process, by xllamacpp, with a tiny GPT-2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gguf_model import write_gguf

from tril_gym.agents import LMPolicy

SLOTS = 4


class LlamaServer:
    """Serves a policy with the weights that it has when it starts, on the same port after each start.

    Args:
        folder: for the file of the weights.
        key: the server refuses requests without it.
    """

    def __init__(self, folder: Path, key: str | None = None) -> None:
        self.file, self.key, self.port = folder / "model.gguf", key, 0
        self.server: Any = None

    def start(self, policy: LMPolicy) -> None:
        """Stop, and start with the weights of a policy."""
        import xllamacpp

        self.stop()
        params: Any = xllamacpp.CommonParams()
        params.model.path = str(write_gguf(policy, self.file))
        params.n_parallel = SLOTS
        params.n_ctx = SLOTS * policy.model.config.n_positions
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.warmup, params.verbosity, params.port = False, 0, self.port
        if self.key is not None:
            params.api_keys = [self.key]
        self.server = xllamacpp.Server(params)
        self.port = int(self.server.listening_address.rpartition(":")[2])

    def stop(self) -> None:
        """Stop."""
        self.server = None

    @property
    def url(self) -> str:
        """The address of the API."""
        return f"http://127.0.0.1:{self.port}/v1"


@contextmanager
def llama_server(policy: LMPolicy, folder: Path, *, key: str | None = None) -> Iterator[str]:
    """Yield the URL of a server with the weights that a policy has at the beginning."""
    found = LlamaServer(folder, key)
    found.start(policy)
    try:
        yield found.url
    finally:
        found.stop()
