"""Requests to a server that answers in JSON: many at once, again after failures that may pass, and no key in messages.

Retried are 429, 5xx, broken connections, timeouts and answers that are no JSON. Every other answer is final: the same
request would get it again.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

log = logging.getLogger(__name__)

Q = TypeVar("Q")
A = TypeVar("A")

MASK = "********"
MOST = 300  # characters of an answer that a message shows
LONGEST_PAUSE = 60.0  # seconds between two attempts, whatever the server asks for


class ServerError(RuntimeError):
    """A server does not answer as it must."""


class RefusedError(ServerError):
    """An answer that another attempt would not change."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status  # of HTTP; None: the answer itself is wrong


class _TransientError(ServerError):
    """A failure that may pass."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds


class JSONClient:
    """Sends requests to a server.

    Args:
        retries: further attempts after one that failed.
        pause: seconds before the second attempt; each further pause is twice as long.
        timeout: seconds without a sign of the server after which an attempt has failed.
        concurrency: most requests at once.
        key_variable: environment variable with the server's key, which is read for each request and stored nowhere.
        is_local: no proxy is used.
    """

    def __init__(
        self, *, retries: int, pause: float, timeout: float, concurrency: int, key_variable: str, is_local: bool
    ) -> None:
        import httpx2

        self.retries, self.pause, self.concurrency, self.key_variable = retries, pause, concurrency, key_variable
        self.timeout = timeout
        limits, limit = httpx2.Limits(max_connections=concurrency), httpx2.Timeout(timeout, connect=min(timeout, 10.0))
        self._http = httpx2.Client(timeout=limit, limits=limits, trust_env=not is_local)
        weakref.finalize(self, self._http.close)
        self._lock, self._counts, self._warned = threading.Lock(), Counter[str](), -1.0
        self._stop = threading.Event()  # of the current `map`

    def take_counts(self) -> dict[str, int]:
        """Return the number of attempts, "requests", and of those that failed, "failures", since the last call."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return {name: counts[name] for name in ("requests", "failures")}

    def map(self, call: Callable[[Q], A], items: Sequence[Q]) -> list[A]:
        """Return what a call returns for each item, several at once; the first error is raised, and ends the others."""
        results: dict[int, A] = {}
        errors: list[BaseException] = []
        self._stop = stop = threading.Event()
        left = iter(range(len(items)))

        def work() -> None:
            while not stop.is_set():
                with self._lock:
                    number = next(left, None)
                if number is None:
                    return
                try:
                    results[number] = call(items[number])
                except BaseException as error:
                    errors.append(error)
                    stop.set()

        # Threads of their own, since an interrupt must not wait for answers, as it would at the end of an executor.
        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(self.concurrency, len(items)))]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive() and not errors:
                    thread.join(0.1)
        finally:
            stop.set()
        if errors:
            raise errors[0]
        return [results[number] for number in range(len(items))]

    def post(
        self, url: str, body: Mapping[str, Any], *, retries: int | None = None, is_json: bool = True
    ) -> dict[str, Any]:
        """Return the answer to a request.

        Args:
            url: the endpoint.
            body: sent as JSON.
            retries: by default those of the client.
            is_json: whether the answer is; otherwise {} is returned.

        Raises:
            RefusedError: the server refuses it.
            ServerError: all attempts failed.
        """

        def send() -> Any:
            return self._http.post(url, json=body, headers=self._headers())

        return self._attempts(url, send, retries, is_json=is_json)

    def get(self, url: str) -> dict[str, Any]:
        """Return what is at an address; raises as `post`, after one attempt."""
        return self._attempts(url, lambda: self._http.get(url, headers=self._headers()), 0)

    def _attempts(
        self, url: str, send: Callable[[], Any], retries: int | None, *, is_json: bool = True
    ) -> dict[str, Any]:
        last, stop = self.retries if retries is None else retries, self._stop
        for number in range(last + 1):
            try:
                return self._attempt(url, send, is_json=is_json)
            except _TransientError as error:
                if number == last:
                    attempts = f"attempt {number + 1} of {last + 1}"
                    raise ServerError(f"{error} ({attempts})") from error.__cause__
                seconds = min(LONGEST_PAUSE, max(self.pause * 2**number, error.retry_after))
                self._warn(f"{error} (attempt {number + 1} of {last + 1}); the next in {seconds:g} s")
                if stop.wait(seconds):
                    raise ServerError("another request failed for good") from None
        raise AssertionError("unreachable")

    def _warn(self, text: str) -> None:
        """Warn of a failure, once a second at most: requests at once fail at once."""
        with self._lock:
            is_due = self._warned < 0 or time.monotonic() - self._warned >= 1.0
            self._warned = time.monotonic() if is_due else self._warned
        if is_due:
            log.warning("%s", text)

    def _attempt(self, url: str, send: Callable[[], Any], *, is_json: bool) -> dict[str, Any]:
        """Send one request and return its answer."""
        import httpx2

        self._count("requests")
        try:
            answer = send()
        except httpx2.TimeoutException as error:
            self._count("failures")
            raise _TransientError(f"{url} gave no answer within {self.timeout:g} s") from error
        except httpx2.HTTPError as error:
            self._count("failures")
            raise _TransientError(self._masked(f"{url}: {type(error).__name__}: {error}")) from error
        try:
            return self._content(url, answer, is_json=is_json)
        except ServerError:
            self._count("failures")
            raise

    def _content(self, url: str, answer: Any, *, is_json: bool) -> dict[str, Any]:
        status = answer.status_code
        if status == 429 or status >= 500:
            raise _TransientError(f"{url} answers {status}{self._reason(answer)}", _seconds(answer.headers))
        if status >= 300:
            where = f", a redirection to {answer.headers.get('location')}" if status < 400 else ""
            raise RefusedError(f"{url} answers {status}{where}{self._reason(answer)}", status)
        if not is_json:
            return {}
        try:
            content = json.loads(answer.content.decode("utf-8"))
        except ValueError as error:  # half an answer, or broken UTF-8
            raise _TransientError(f"{url} answers what is no JSON ({error})") from error
        if not isinstance(content, dict):
            raise RefusedError(f"{url} must answer with a JSON object, got {self._masked(str(content)):.{MOST}}")
        return content

    def _reason(self, answer: Any) -> str:
        """Return what a server says of a failure, its key masked."""
        text = answer.content.decode("utf-8", errors="replace").strip()
        try:
            found = json.loads(text)
            error = found.get("error", found.get("detail", found.get("message", text)))
            text = str(error.get("message", error) if isinstance(error, dict) else error)
        except (ValueError, AttributeError):
            pass
        return f": {' '.join(self._masked(text).split()):.{MOST}}" if text else ""

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"} if (key := self._key()) else {}

    def _key(self) -> str:
        key = os.environ.get(self.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise RefusedError(f"the environment variable {self.key_variable} holds characters that no key has")
        return key

    def _masked(self, text: str) -> str:
        key = os.environ.get(self.key_variable, "").strip()
        return text.replace(key, MASK) if key else text

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


def _seconds(headers: Mapping[str, str]) -> float:
    """Return how long a server asks to wait, 0 where it does not say so in seconds."""
    try:
        return max(0.0, float(headers.get("retry-after", 0)))
    except ValueError:
        return 0.0
