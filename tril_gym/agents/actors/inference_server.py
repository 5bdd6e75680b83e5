"""An inference server: requests for texts, its answers kept in a cache, and what it is able to do.

Which of a server's abilities are used is found out by asking it, before the first text is written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tril_gym.agents.actors.completions_protocol import (
    DIALECTS,
    Answer,
    Dialect,
    TokenFields,
    answer_of,
    llama_answer_of,
    llama_request,
    sampling_fields,
)
from tril_gym.functional.sampling import Decoding
from tril_gym.utils.answer_cache import AnswerCache
from tril_gym.utils.http_client import JSONClient, RefusedError, ServerError
from tril_gym.utils.servers import ServerAddress, ServerConfig
from tril_gym.utils.text_codec import TextCodec
from tril_gym.utils.tokenization import UNREADABLE, decode, number_of_ids

log = logging.getLogger(__name__)

Q = TypeVar("Q")
A = TypeVar("A")
Messages = list[dict[str, str]]

PROBE = "Once upon a time there was"  # continued to find out what a server returns
PROBED_TOKENS = 8
PROBE_RETRIES = 2  # at most: a wrong address must not be found after half a minute
COMPARED = 256  # tokens of the vocabulary that are compared
SEEDS = 2**31


def seed_of(draw: float) -> int:
    """Return the seed of a text, in [0, 2³¹), from its uniform in [0, 1)."""
    return int(draw * SEEDS)


class InferenceServer:
    """Asks a server for texts.

    Args:
        address: of the server, with the name of the model.
        decoding: how it samples.
        config: how it is asked.
    """

    def __init__(self, address: ServerAddress, decoding: Decoding, config: ServerConfig) -> None:
        self.address, self.decoding, self.config = address, decoding, config
        self.model = address.model  # asked for
        self.dialect: Dialect = "full"  # which sampling settings it takes
        self.is_llama = False  # whether ids are exchanged at the endpoint that only llama.cpp has
        self._cache = None if config.cache is None else AnswerCache(Path(config.cache))
        self._client = JSONClient(
            retries=config.retries,
            pause=config.pause,
            timeout=config.timeout,
            concurrency=config.concurrency,
            key_variable=config.key_variable,
            is_local=address.is_local,
        )
        self._lock, self._seconds, self._tokens = threading.Lock(), 0.0, 0

    def map(self, call: Callable[[Q], A], items: Sequence[Q]) -> list[A]:
        """Return what a call that asks the server returns for each item, several at once."""
        begin = time.perf_counter()
        try:
            return self._client.map(call, items)
        finally:
            self._seconds += time.perf_counter() - begin

    def take_metrics(self) -> dict[str, float]:
        """Return requests, failures, seconds and tokens since the last call."""
        found = self._client.take_counts() | {"seconds": self._seconds, "tokens": self._tokens}
        self._seconds, self._tokens = 0.0, 0
        return found

    def complete(
        self,
        prompt: str | list[int],
        *,
        max_tokens: int,
        seed: int,
        stop: Sequence[str] = (),
        tokens: TokenFields | None = None,
        is_cached: bool = True,
    ) -> Answer:
        """Return the continuation of a prompt.

        Args:
            prompt: a text, or ids of the model's vocabulary.
            max_tokens: most tokens of the continuation.
            seed: of the server's sampling.
            stop: strings that end it.
            tokens: asks for ids.
            is_cached: whether an answer in the cache will do; if not, the request is a probe.
        """
        body: dict[str, Any] = {"prompt": prompt} | self._fields(max_tokens, seed, stop)
        if tokens is not None and self.is_llama:
            return self._ask(
                self.address.root + "/completion", llama_request(body), llama_answer_of, is_cached=is_cached
            )
        asked = body | (tokens.fields() if tokens is not None else {})
        return self._ask(self.address.url + "/completions", asked, answer_of, is_cached=is_cached)

    def chat(
        self, messages: Messages, *, max_tokens: int, seed: int, stop: Sequence[str] = (), is_cached: bool = True
    ) -> Answer:
        """Return the assistant's next message, or the rest of the last message where that is the assistant's."""
        body: dict[str, Any] = {"messages": messages} | self._fields(max_tokens, seed, stop)
        if messages[-1]["role"] == "assistant":
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return self._ask(self.address.url + "/chat/completions", body, answer_of, is_cached=is_cached)

    def _fields(self, max_tokens: int, seed: int, stop: Sequence[str]) -> dict[str, Any]:
        fields = {"model": self.model, "max_tokens": max_tokens, "seed": seed}
        return fields | sampling_fields(self.decoding, self.dialect) | ({"stop": list(stop)} if stop else {})

    def _ask(self, url: str, body: Mapping[str, Any], read: Callable[..., Answer], *, is_cached: bool) -> Answer:
        """Return the answer in the cache, which knows no host, else the server's."""
        request = {"path": urlsplit(url).path, "model": self.model, **body}
        cache = self._cache if is_cached else None
        content = None if cache is None else cache.get(request)
        is_new = content is None
        retries = None if is_cached else min(PROBE_RETRIES, self.config.retries)
        content = self._client.post(url, body, retries=retries) if content is None else content
        answer = read(content)
        if is_new and cache is not None:
            cache.put(request, content)
        with self._lock:
            self._tokens += answer.tokens
        return answer

    def post_to_api(self, path: str, body: Mapping[str, Any]) -> None:
        """Call another endpoint below the address."""
        self._client.post(self.address.url + path, body, is_json=False)

    def post_to_root(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer of an endpoint beside the API."""
        return self._client.post(self.address.root + path, body)

    def find_dialect(self) -> None:
        """Find which sampling settings the server takes: all, or those of `transformers serve`, or of OpenAI only.

        Raises:
            ServerError: it answers none.
        """
        first: RefusedError | None = None
        for self.dialect in DIALECTS:
            try:
                self._probe(PROBE)
                break
            except RefusedError as error:
                first = first or error
                if first.status not in (400, 422):
                    raise
        else:
            assert first is not None
            raise first
        if self.dialect == "plain":
            log.warning(
                "%s takes no top_k, min_p and repetition_penalty, so where the server has defaults for them, its texts"
                " are not those of the full softmax",
                self.address.url,
            )

    def has_vocabulary(self, tokenizer: Any, eos_token_ids: tuple[int, ...]) -> bool:
        """Return whether the server takes and returns ids, and they are those of a tokenizer."""
        prompt, tokens = TextCodec(tokenizer).ids(PROBE), TokenFields(eos_token_ids)
        self.is_llama = False
        try:
            answer = self._probe(prompt, tokens)
            if answer.is_llama:
                self.is_llama = True
                answer = self._probe(prompt, tokens)
        except ServerError:
            return False
        if not answer.ids or max(answer.ids) >= number_of_ids(tokenizer):
            return False
        is_same_text = readable(decode(tokenizer, answer.ids)) == readable(answer.text)
        ids = plain_ids(tokenizer)
        found = self._detokenized(ids)
        if found is None:  # no such endpoint: what it wrote must do
            return is_same_text and bool(readable(answer.text))
        return is_same_text and readable(found) == readable(decode(tokenizer, ids))

    def continues_messages(self) -> bool:
        """Return whether the last message of a chat, if it is the assistant's, is continued.

        Then its words are all that is added to the prompt, as the server counts its tokens. Otherwise the template
        closes the message and opens another one.
        """
        counts = []
        for words in (0, 4, 8):
            begun = [{"role": "assistant", "content": " ".join(["yes"] * words)}] if words else []
            try:
                messages = [{"role": "user", "content": PROBE}, *begun]
                answer = self.chat(messages, max_tokens=1, seed=0, is_cached=False)
            except RefusedError:
                if not words:
                    raise
                return False
            counts.append(answer.prompt_tokens)
        none, few, more = counts
        return None not in (none, few, more) and few - none == more - few  # type: ignore[operator]

    def models(self) -> list[str]:
        """Return the names of the models that the server has; [] where it does not say."""
        try:
            found = self._client.get(f"{self.address.url}/models").get("data")
        except ServerError:
            return []
        return [entry["id"] for entry in found or () if isinstance(entry, dict) and isinstance(entry.get("id"), str)]

    def _probe(self, prompt: str | list[int], tokens: TokenFields | None = None) -> Answer:
        if self.address.is_chat:
            return self.chat([{"role": "user", "content": PROBE}], max_tokens=1, seed=0, is_cached=False)
        return self.complete(prompt, max_tokens=PROBED_TOKENS, seed=0, tokens=tokens, is_cached=False)

    def _detokenized(self, ids: list[int]) -> str | None:
        """Return ids as the server's own endpoint decodes them; None without one, as OpenAI defines none."""
        try:
            body = {"model": self.model, "tokens": ids}
            found = self._client.post(f"{self.address.root}/detokenize", body, retries=0)
        except ServerError:
            return None
        text = found.get("content", found.get("prompt", found.get("text")))
        return text if isinstance(text, str) else None


def readable(text: str) -> str:
    """Return a text without what decoders differ in: halves of characters, and spaces at both ends."""
    return text.replace(UNREADABLE, "").strip()


def plain_ids(tokenizer: Any) -> list[int]:
    """Return ids from all over a vocabulary, each of which is printable ASCII."""
    size = number_of_ids(tokenizer)
    ids = [number * size // COMPARED for number in range(COMPARED)] if size > COMPARED else list(range(size))
    texts = [decode(tokenizer, [token]) for token in ids]
    return [
        token
        for token, text in zip(ids, texts, strict=True)
        if text.strip() and (text.isascii() and text.isprintable())
    ]
