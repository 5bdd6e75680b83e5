"""A small HTTP server in a thread, which answers as a test says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """An HTTP answer; `hang` seconds pass before it, and with `cut` its body ends too early."""

    content: Any = None  # JSON, or bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: float = 0.0
    cut: bool = False


@dataclass
class Asked:
    """What a server was asked."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]


def said(text: str, *, reason: str = "stop", ids: list[int] | None = None, **more: Any) -> Reply:
    """Return an answer of one text, with the ids of vLLM if there are any."""
    choice = {"index": 0, "text": text, "finish_reason": reason} | ({} if ids is None else {"token_ids": ids}) | more
    return Reply({"choices": [choice], "usage": {"completion_tokens": len(ids or text.split()), "prompt_tokens": 3}})


class FakeServer:
    """Answers requests by a function of what is asked, and remembers them."""

    def __init__(self, answer: Callable[[Asked], Reply]) -> None:
        self.answer, self.asked, self.lock = answer, list[Asked](), threading.Lock()
        self.active, self.most_active, self.is_closed = 0, 0, False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet for headers and body
            disable_nagle_algorithm = True

            def log_message(self, *args: Any) -> None:
                """Print nothing."""

            def do_GET(self) -> None:
                outer.respond(self, {})

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                outer.respond(self, json.loads(self.rfile.read(length)))

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def respond(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self.lock:
            self.active += 1
            self.most_active = max(self.most_active, self.active)
            asked = Asked(handler.path, body, {name.lower(): value for name, value in handler.headers.items()})
            self.asked.append(asked)
        try:
            if self.is_closed:  # connections outlive the thread that accepts them
                raise BrokenPipeError
            reply = self.answer(asked)
            time.sleep(reply.hang)
            sent = reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content).encode()
            handler.send_response(reply.status)
            for name, value in reply.headers.items():
                handler.send_header(name, value)
            handler.send_header("content-length", str(len(sent)))
            handler.end_headers()
            handler.wfile.write(sent[: len(sent) // 2] if reply.cut else sent)
            handler.close_connection |= reply.cut
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True
        finally:
            with self.lock:
                self.active -= 1

    def texts(self) -> list[Asked]:
        """Return what was asked for texts, without the questions before the first."""
        return [asked for asked in self.asked if asked.body.get("max_tokens", 0) > 8]


@contextmanager
def serving(answer: Callable[[Asked], Reply]) -> Iterator[FakeServer]:
    """Yield a running server."""
    server = FakeServer(answer)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.is_closed = True
        server.http.shutdown()
        server.http.server_close()
        thread.join()
