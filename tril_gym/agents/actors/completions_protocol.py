"""The protocol of OpenAI's /completions and /chat/completions as inference servers speak it: requests and answers.

Beyond what OpenAI defines, vLLM, SGLang and llama.cpp take token ids as prompt and return the ids that they write, and
they take the sampling settings that they would else fill in from the model or from defaults of their own. llama.cpp
returns all ids at its own /completion only: beside its log-probabilities it leaves out those inside of characters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tril_gym.functional.sampling import Decoding
from tril_gym.utils.http_client import RefusedError

Dialect = Literal["full", "transformers", "plain"]
DIALECTS: tuple[Dialect, ...] = ("full", "transformers", "plain")
TOKEN_ID = "token_id:"  # how vLLM names tokens where it is asked for ids in place of strings


@dataclass(frozen=True)
class Answer:
    """What a server wrote."""

    text: str
    ids: tuple[int, ...] | None  # None: the server does not return them
    logprobs: tuple[float, ...] | None  # nats, one for each id
    is_cut: bool  # ended by max_tokens
    is_llama: bool  # whether the ids are those beside the log-probabilities of llama.cpp
    stop_string: str | None  # that ended the text and is not in it; None also where the server does not say
    tokens: int  # as the server counts them
    prompt_tokens: int | None


@dataclass(frozen=True)
class TokenFields:
    """What is asked of a server that takes and returns token ids."""

    eos_token_ids: tuple[int, ...]
    min_tokens: int = 0

    def fields(self) -> dict[str, Any]:
        """Return the fields of a request."""
        shortest = {"min_tokens": self.min_tokens} if self.min_tokens > 0 else {}
        # logprobs: llama.cpp returns ids with them only; with 0 of them it returns none.
        return {"return_token_ids": True, "logprobs": 1, "stop_token_ids": list(self.eos_token_ids)} | shortest


def llama_request(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request of /completions as llama.cpp's own /completion takes it."""
    shared = ("prompt", "seed", "temperature", "top_p", "top_k", "min_p", "stop")
    found = {name: body[name] for name in shared if name in body}
    return found | {"n_predict": body["max_tokens"], "return_tokens": True, "n_probs": 1, "repeat_penalty": 1.0}


def llama_answer_of(content: Mapping[str, Any]) -> Answer:
    """Read an answer of llama.cpp's own /completion.

    Raises:
        RefusedError: it is none.
    """
    text, ids, stop = content.get("content"), content.get("tokens"), content.get("stop_type")
    is_whole = isinstance(ids, list) and all(isinstance(token, int) for token in ids)
    if not (isinstance(text, str) and is_whole and stop in ("eos", "word", "limit")):
        raise RefusedError(f"the server's answer must have content, tokens and a stop_type, got {content!s:.200}")
    assert isinstance(ids, list)
    found = content.get("completion_probabilities")
    known = [entry for entry in found or () if isinstance(entry, dict)]
    return Answer(
        text=text,
        ids=tuple(ids),
        logprobs=_aligned(ids, known),
        is_cut=stop == "limit",
        is_llama=False,
        stop_string=content.get("stopping_word") if stop == "word" else None,
        tokens=len(ids),
        prompt_tokens=None,
    )


def _aligned(ids: Sequence[int], known: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """Return a log-probability for each id; NaN for those that the server leaves out, inside of characters."""
    left, values = list(known), []
    for token in ids:
        is_next = bool(left) and left[0].get("id") == token
        values.append(float(left.pop(0)["logprob"]) if is_next else math.nan)
    return tuple(values)


def sampling_fields(decoding: Decoding, dialect: Dialect) -> dict[str, Any]:
    """Return the sampling settings of a request.

    Args:
        decoding: temperature, top-k and top-p.
        dialect: "full": every setting that changes the distribution is sent, since vLLM takes those that are missing
            from the model's generation config, and llama.cpp has defaults. "transformers": `transformers serve` takes
            most of them as a generation config only, and is greedy without. "plain": what OpenAI defines, which has no
            top-k.
    """
    fields: dict[str, Any] = {"temperature": decoding.temperature}
    fields["top_p"] = 1.0 if decoding.top_p is None else decoding.top_p
    if dialect == "full":
        fields |= {"top_k": decoding.top_k or -1, "min_p": 0.0, "repetition_penalty": 1.0}
    elif dialect == "transformers":
        settings = {"do_sample": True, "top_k": decoding.top_k or 0, "repetition_penalty": 1.0}
        fields["generation_config"] = json.dumps(settings)
    return fields


def answer_of(content: Mapping[str, Any]) -> Answer:
    """Read an answer of one text.

    Raises:
        RefusedError: it is none.
    """
    choices = content.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        count = len(choices) if isinstance(choices, list) else "none"
        raise RefusedError(f"the server must answer one prompt with one text, got {count}: {content!s:.200}")
    choice: dict[str, Any] = choices[0]
    reason, message = choice.get("finish_reason"), choice.get("message")
    text = (message.get("content") or "") if isinstance(message, dict) else choice.get("text")
    if not isinstance(text, str) or not isinstance(reason, str):
        raise RefusedError(f"the server's answer must have a text and a finish_reason, got {choice!s:.200}")
    ids, is_llama = _ids(choice)
    usage = content.get("usage") if isinstance(content.get("usage"), dict) else {}
    assert isinstance(usage, dict)
    counted, read = usage.get("completion_tokens"), usage.get("prompt_tokens")
    stop = choice.get("stop_reason")
    return Answer(
        text=text,
        ids=ids,
        logprobs=None if ids is None else _logprobs(choice, len(ids)),
        is_cut=reason == "length",
        is_llama=is_llama,
        stop_string=stop if isinstance(stop, str) else None,
        tokens=counted if isinstance(counted, int) else len(ids or ()),
        prompt_tokens=read if isinstance(read, int) else None,
    )


def _ids(choice: Mapping[str, Any]) -> tuple[tuple[int, ...] | None, bool]:
    """Return the ids of an answer, of vLLM or as names such as "token_id:17", and whether they are of llama.cpp."""
    found, logprobs, is_llama = choice.get("token_ids"), choice.get("logprobs"), False
    if found is None and isinstance(logprobs, dict):
        found = [entry.get("id") for entry in logprobs.get("content") or () if isinstance(entry, dict)] or None
        is_llama = found is not None
        found = found or _named_ids(logprobs.get("tokens"))
    is_list = isinstance(found, list) and all(isinstance(token, int) and token >= 0 for token in found)
    return (tuple(found), is_llama) if is_list and isinstance(found, list) else (None, False)


def _named_ids(tokens: Any) -> list[int] | None:
    names = tokens if isinstance(tokens, list) else []
    is_named = all(isinstance(name, str) and name.removeprefix(TOKEN_ID).isdecimal() for name in names)
    all_prefixed = is_named and all(name.startswith(TOKEN_ID) for name in names)
    return [int(name.removeprefix(TOKEN_ID)) for name in names] if names and all_prefixed else None


def _logprobs(choice: Mapping[str, Any], count: int) -> tuple[float, ...] | None:
    """Return the log-probabilities of an answer's ids; None where they are not one for each."""
    found = choice.get("logprobs")
    if not isinstance(found, dict):
        return None
    values: Sequence[Any] = found.get("token_logprobs") or [
        entry.get("logprob") for entry in found.get("content") or ()
    ]
    is_whole = len(values) == count and all(isinstance(value, int | float) for value in values)
    return tuple(float(value) for value in values) if is_whole else None
