"""A server of llama.cpp in this process, by xllamacpp, with a tiny GPT-2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gguf_model import write_gguf

from tril_gym.agents import LMPolicy

SLOTS = 4


@contextmanager
def llama_server(policy: LMPolicy, folder: Path, *, key: str | None = None) -> Iterator[str]:
    """Yield the URL of a server with the weights that a policy has at the beginning."""
    import xllamacpp

    params: Any = xllamacpp.CommonParams()
    params.model.path = str(write_gguf(policy, folder / "model.gguf"))
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * policy.model.config.n_positions
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    params.port = 0
    params.verbosity = 0
    if key is not None:
        params.api_keys = [key]
    server: Any = xllamacpp.Server(params)
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server
