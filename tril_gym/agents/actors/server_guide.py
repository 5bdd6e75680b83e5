"""A guide behind an inference server, such as vLLM, SGLang, llama.cpp or `transformers serve`.

It writes whole texts: one request for each, several at once, each with a seed of its own that follows from the text's
uniform, so that the same run asks the same. Where the server takes and returns token ids of the environment's
vocabulary, no text is decoded in between; otherwise they meet as text.

B texts, T new tokens.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from tril_gym.agents.actors.completions_protocol import Answer, TokenFields
from tril_gym.agents.actors.inference_server import InferenceServer, Messages, seed_of
from tril_gym.agents.actors.text_guide import BegunText, rest_ids
from tril_gym.agents.actors.whole_text_writer import WholeTextWriter, WrittenTexts
from tril_gym.agents.collection.actor import Actor
from tril_gym.agents.collection.layout import TextLayout, codec_of
from tril_gym.agents.collection.trajectories import Infos
from tril_gym.models.texts import Texts
from tril_gym.utils.http_client import RefusedError, ServerError
from tril_gym.utils.text_codec import TextCodec
from tril_gym.utils.tokenization import UNREADABLE

MOST_IN_VAIN = 2  # answers in a row without a token of the environment, after which a text is at its end


@dataclass(frozen=True)
class _Found:
    """What a server is able to do in an environment."""

    tokenizer: Any
    takes_ids: bool


class ServerGuide(Actor):
    """A language model behind a server; `Guide.from_server` makes one.

    Args:
        server: is asked for texts.
    """

    def __init__(self, server: InferenceServer) -> None:
        self.server = server
        self._found: _Found | None = None

    def __repr__(self) -> str:
        address, decoding = self.server.address, str(self.server.decoding)
        kind = "" if self._found is None else ", ids" if self._found.takes_ids else ", text"
        return f"Guide.from_server({str(address)!r}, {decoding}{kind})"

    def settings(self) -> dict[str, Any]:
        """Return what `Guide.from_server` makes it of again, as plain data; of the key, where it is read from."""
        decoding = asdict(self.server.decoding)
        decoding.pop("greedy")
        return {"url": str(self.server.address)} | decoding | asdict(self.server.config)

    def start(self, texts: Texts, infos: Infos, layout: TextLayout) -> WholeTextWriter:
        """Continue texts where they stop; see `Actor`."""
        by_ids = self._takes_ids(layout)
        requests = (
            _IdRequests(self.server, texts, layout) if by_ids else _TextRequests(self.server, texts, infos, layout)
        )

        def write_texts(rows: list[int], draws: Tensor) -> WrittenTexts:
            asked = list(zip(rows, map(seed_of, draws.tolist()), strict=True))
            try:
                return WrittenTexts(self.server.map(lambda one: requests.rest(*one), asked))
            except ServerError as error:
                raise RuntimeError(f"the guide {self.server.address} failed: {error}{self._way_out(error)}") from error

        return WholeTextWriter(write_texts, len(infos))

    def reads_text(self, layout: TextLayout) -> bool:
        """Return whether text is exchanged, not ids; see `Actor`."""
        return not self._takes_ids(layout)

    def check(self, layout: TextLayout) -> None:
        """Ask the server what it is able to do.

        Raises:
            ValueError: it does not answer, or its answers do not fit the environment.
        """
        codec_of(layout)
        server, address = self.server, self.server.address
        if address.is_chat and layout.chat:
            raise ValueError(
                f"the prompts are chats that the policy's template has rendered, which {address} would take for one"
                f" message; use its other endpoint, {address.url}#{address.model}"
            )
        try:
            server.find_dialect()
            self.can_continue = not address.is_chat or server.continues_messages()
            self._found = _Found(layout.tokenizer, self._exchanges_ids(layout))
            server.take_metrics()  # those of the questions above
        except ServerError as error:
            raise ValueError(f"the guide {address} does not answer: {error}{self._way_out(error)}") from error

    def metrics(self) -> dict[str, float]:
        """Return requests, failures, seconds and tokens since the last call; see `Actor`."""
        return {f"guide/{name}": value for name, value in self.server.take_metrics().items()}

    def _takes_ids(self, layout: TextLayout) -> bool:
        if self._found is None or self._found.tokenizer is not layout.tokenizer:
            self.check(layout)
        assert self._found is not None
        return self._found.takes_ids

    def _exchanges_ids(self, layout: TextLayout) -> bool:
        """Return whether ids are exchanged.

        Raises:
            ValueError: they are asked for, and the server does not have the environment's.
        """
        wanted, address = self.server.config.token_ids, self.server.address
        if wanted is False or (wanted is None and (address.is_chat or self.server.dialect != "full")):
            return False
        has_them = not address.is_chat and self.server.has_vocabulary(layout.tokenizer, layout.eos_token_ids)
        if wanted and not has_them:
            raise ValueError(
                f"token_ids=True, but {address} does not take and return ids of the environment's vocabulary; leave it"
                " out to exchange text, or give the environment the tokenizer of the server's model"
            )
        return has_them

    def _way_out(self, error: ServerError) -> str:
        """Return what to do about a server that does not answer."""
        if not isinstance(error, RefusedError):
            return "; is the server running there?"
        if error.status in (401, 403):
            return f"; put its key into the environment variable {self.server.config.key_variable}"
        models = self.server.models() if error.status in (400, 404, 422) else []
        if models and self.server.address.model not in models:
            return f"; it has the models {', '.join(models[:10])}"
        return "; does the address end in /v1?" if error.status == 404 else ""


class _IdRequests:
    """Asks for the rest of texts as ids, which are used as they are."""

    def __init__(self, server: InferenceServer, texts: Texts, layout: TextLayout) -> None:
        self.server, self.texts, self.layout, self.codec = server, texts, layout, codec_of(layout)
        self._lock = threading.Lock()  # of the tokenizer, whose settings are not for several threads

    def rest(self, row: int, seed: int) -> list[int]:
        """Return the ids of the rest of a text, EOS included where it fits."""
        answer = ask_ids(self.server, self.texts, row, seed, self.layout)
        with self._lock:
            return finished_ids(answer, self.texts.completion_ids(row), self.layout, self.codec)


def ask_ids(server: InferenceServer, texts: Texts, row: int, seed: int, layout: TextLayout) -> Answer:
    """Ask for the rest of one of B texts as ids."""
    begun = texts.completion_ids(row)
    tokens = TokenFields(layout.eos_token_ids, layout.min_new_tokens - len(begun))
    room = layout.max_new_tokens - len(begun)
    prompt = prompt_ids(texts, row, layout) + begun
    return server.complete(prompt, max_tokens=room, seed=seed, stop=layout.stop, tokens=tokens)


def prompt_ids(texts: Texts, row: int, layout: TextLayout) -> list[int]:
    """Return the ids of a prompt, without an EOS at its end: a decoder-only model does not continue what has ended."""
    ids = texts.prompt_ids(row)
    return ids[:-1] if layout.prompt_eos and ids and ids[-1] in layout.eos_token_ids else ids


def finished_ids(answer: Answer, begun: list[int], layout: TextLayout, codec: TextCodec) -> list[int]:
    """Return the ids of an answer as the environment ends them: up to a stop string or EOS, which is added if missing.

    Args:
        answer: has ids.
        begun: the ids before it.
        layout: sizes and ends of the environment.
        codec: of the environment's tokenizer.

    Raises:
        RefusedError: ids are missing or unknown, or the server had no room for the text.
    """
    if answer.ids is None:
        raise RefusedError("the server returned no ids, as it did before; was it replaced?")
    unknown = [token for token in answer.ids if token >= layout.vocab_size]
    if unknown:
        raise RefusedError(f"the server returned the id {unknown[0]}, and the vocabulary has {layout.vocab_size}")
    room, ends = layout.max_new_tokens - len(begun), layout.eos_token_ids
    end = next((place for place, token in enumerate(answer.ids) if token in ends), None)
    ids = list(answer.ids[: room if end is None else end + 1])
    if answer.stop_string is not None and not layout.stop_strings.are_in([*begun, *ids]):
        ids += codec.ids(answer.stop_string, after=[*begun, *ids])
    ids = layout.stop_strings.cut_ids([*begun, *ids])[len(begun) :][:room]
    has_ended = len(ids) == room or (ids and ids[-1] in ends) or layout.stop_strings.are_in([*begun, *ids])
    if not has_ended and answer.is_cut:
        raise RefusedError(
            f"the server stopped after {len(ids)} of {room} tokens; start it with a longer context (--max-model-len of"
            " vLLM, --ctx-size of llama.cpp)"
        )
    return ids if has_ended else [*ids, ends[0]]


class _TextRequests:
    """Asks for the rest of texts as text."""

    def __init__(self, server: InferenceServer, texts: Texts, infos: Infos, layout: TextLayout) -> None:
        self.server, self.layout, self.codec = server, layout, codec_of(layout)
        self.begun = BegunText.read(texts, infos, self.codec)
        self._lock = threading.Lock()  # of the tokenizer, whose settings are not for several threads

    def rest(self, row: int, seed: int) -> list[int]:
        """Return the ids of the rest of a text, EOS included where it fits."""
        layout, begun = self.layout, self.begun[row]
        room = layout.max_new_tokens - len(begun.ids)
        text, left, in_vain = "", room, 0
        while left > 0 and in_vain < MOST_IN_VAIN:
            answer = self._ask(begun, text, left, seed)
            written = answer.text.rstrip(UNREADABLE)  # a character that is not whole
            text += written
            if not (answer.is_cut and written):
                text += answer.stop_string or ""
                break
            # The server's tokens are shorter than the environment's: there is room left.
            with self._lock:
                before, left = left, room - len(self.codec.ids(text, after=begun.ids))
            # Of what the environment's vocabulary lacks, such as T5's line breaks, no number of answers fills the room.
            in_vain = in_vain + 1 if left >= before else 0
        with self._lock:
            return rest_ids(self.codec, layout, text, begun)

    def _ask(self, begun: BegunText, text: str, room: int, seed: int) -> Answer:
        settings: dict[str, Any] = {"max_tokens": room, "seed": seed, "stop": self.layout.stop}
        written = begun.completion + text
        if not self.server.address.is_chat:
            return self.server.complete(begun.prompt + written, **settings)
        messages: Messages = [{"role": "user", "content": begun.prompt}]
        if written:
            messages.append({"role": "assistant", "content": written.removeprefix(self.layout.joiner)})
        return self.server.chat(messages, **settings)
