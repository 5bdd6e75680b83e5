"""Lengths of prompts and references: P and T that hold most of them, and a message where references do not fit.

A reference that does not fit into T tokens loses its end, and its EOS. A policy that imitates cut references, or a
guide that writes them, does not learn to end a text. The rejected texts of pairs count as references do: where one text
of a pair is cut and the other is not, their log-probabilities cannot be compared.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from tril_gym.data.example import Example
from tril_gym.data.examples import PLAIN, Examples
from tril_gym.data.tokenizers import FIT
from tril_gym.envs.arrays import Ids
from tril_gym.utils.chats import ChatFormat
from tril_gym.utils.no_copy import NoCopy
from tril_gym.utils.tokenization import after_joiner, encode, special_tokens_of_prompts, token_counts

logger = logging.getLogger(__name__)

MAX_SHARE = 0.05  # of references that are cut, above which a log message says so
COUNTED = 500  # references, evenly spaced
WHOLE = f"{1 - MAX_SHARE:.0%}".replace("%", " %")
MOST = (512, 128)  # tokens of a prompt and of a completion, where they are measured


def reference_lengths(examples: Examples, tokenizer: Any, joiner: str) -> Ids:
    """Return the tokens of at most 500 references, rejected texts among them, EOS counted: (n,)."""
    references = [text for example in evenly_spaced(examples) for text in (*example.references, *rejected_of(example))]
    step = max(1, math.ceil(len(references) / COUNTED))
    lengths = [len(encode(tokenizer, after_joiner(joiner, reference))) + 1 for reference in references[::step]]
    return np.array(lengths, dtype=np.int64)


def rejected_of(example: Example) -> tuple[str, ...]:
    """Return the rejected text of an example that has a pair, else nothing."""
    rejected = example.extras.get("rejected")
    return (rejected,) if isinstance(rejected, str) else ()


def evenly_spaced(examples: Examples, most: int | None = None) -> tuple[Example, ...]:
    """Return all examples, or where they are many, at most that number of them, by default `PLAIN`."""
    return examples[:: max(1, math.ceil(len(examples) / (PLAIN if most is None else most)))]


def measured_lengths(
    examples: Examples,
    tokenizer: Any,
    given: tuple[int | None, int | None],
    *,
    joiner: str,
    keeps_eos: bool,
    chat: ChatFormat,
) -> tuple[int, int]:
    """Return P and T: what is given, else the 95th percentile of prompts and of references, at most 512 and 128.

    T is 128 where no example has a reference. A log message, one for each data set, has both.

    Args:
        examples: the examples to learn from.
        tokenizer: the tokenizer of the environment.
        given: P and T, None for each that is to be measured.
        joiner: between prompt and completion.
        keeps_eos: whether a prompt ends in EOS where the tokenizer puts one there.
        chat: how prompts become chats.
    """
    return _measure_once(NoCopy(examples), NoCopy(tokenizer), given, joiner, keeps_eos, chat)


@functools.lru_cache(maxsize=16)
def _measure_once(
    examples: NoCopy,
    tokenizer: NoCopy,
    given: tuple[int | None, int | None],
    joiner: str,
    keeps_eos: bool,
    chat: ChatFormat,
) -> tuple[int, int]:
    data: Examples = examples.value  # type: ignore[assignment]
    P, T = given  # noqa: N806
    said = []
    if P is None:
        P = _holding_most(prompt_lengths(data, tokenizer.value, keeps_eos=keeps_eos, chat=chat), MOST[0])  # noqa: N806
        said.append(f"max_prompt_length={P} holds {WHOLE} of the prompts" + _limit(P, MOST[0]))
    if T is None:
        lengths = reference_lengths(data, tokenizer.value, joiner)
        T = _holding_most(lengths, MOST[1])  # noqa: N806
        why = f"holds {WHOLE} of the references" + _limit(T, MOST[1]) if len(lengths) else "as there are no references"
        said.append(f"max_new_tokens={T} {why}")
    logger.warning("%s: %s; other values can be given", data.source, ", ".join(said))
    return P, T


def _limit(length: int, most: int) -> str:
    return ", or is the most that is chosen unasked" if length == most else ""


def _holding_most(lengths: Ids, most: int) -> int:
    """Return the 95th percentile of lengths, `most` where it is more or there are none."""
    return min(int(np.quantile(lengths, 1 - MAX_SHARE, method="inverted_cdf")), most) if len(lengths) else most


def _cut_share(lengths: Ids, limit: int) -> tuple[float, int] | None:
    """Return the per cent of lengths above a limit, and a limit that holds 95 % of them; None for 5 % or less."""
    share = float((lengths > limit).mean()) if len(lengths) else 0.0
    return (100 * share, int(np.quantile(lengths, 1 - MAX_SHARE, method="higher"))) if share > MAX_SHARE else None


def warn_of_cut_chats(examples: Examples, tokenizer: Any, *, max_prompt_length: int, chat: ChatFormat) -> None:
    """Log the share of chats that are longer than P where it is above 5 %, once for each data set.

    Args:
        examples: the examples of the environment.
        tokenizer: the tokenizer of the environment.
        max_prompt_length: P.
        chat: how prompts become chats.
    """
    _warn_of_chats_once(NoCopy(examples), NoCopy(tokenizer), max_prompt_length, chat)


@functools.lru_cache(maxsize=16)
def _warn_of_chats_once(examples: NoCopy, tokenizer: NoCopy, max_prompt_length: int, chat: ChatFormat) -> None:
    data: Examples = examples.value  # type: ignore[assignment]
    lengths = _chat_lengths(evenly_spaced(data, COUNTED), tokenizer.value, chat)
    if cut := _cut_share(lengths, max_prompt_length):
        share, fitting = cut
        _say_once(
            f"{share:.0f} % of the chats of {data.source} are longer than max_prompt_length={max_prompt_length} and"
            f" lose their beginning, a system message first; max_prompt_length={fitting} holds {WHOLE} of them"
        )


@functools.lru_cache(maxsize=16)
def _say_once(message: str) -> None:
    logger.warning(message)  # once, also where a tokenizer is loaded twice


def _chat_lengths(examples: Iterable[Example], tokenizer: Any, chat: ChatFormat) -> Ids:
    chats = (chat.messages(example.prompt, example.messages) for example in examples)
    return np.array([len(chat.encode(tokenizer, messages)) for messages in chats], dtype=np.int64)


def prompt_lengths(examples: Examples, tokenizer: Any, *, keeps_eos: bool, chat: ChatFormat) -> Ids:
    """Return the tokens of the prompts, special ones counted, (n,): of all, or where they are many of `PLAIN`."""
    some = evenly_spaced(examples)
    if chat.is_used:
        return _chat_lengths(some, tokenizer, chat)
    before, after = special_tokens_of_prompts(tokenizer, keeps_eos=keeps_eos)
    return token_counts(tokenizer, [example.prompt for example in some]) + len(before) + len(after)


def warn_of_cut_references(examples: Examples, tokenizer: Any, *, max_new_tokens: int, joiner: str) -> None:
    """Log the share of references that are longer than T where it is above 5 %, once for each data set.

    Args:
        examples: the examples to learn from.
        tokenizer: the tokenizer of the environment.
        max_new_tokens: T.
        joiner: between prompt and completion.
    """
    _warn_once(NoCopy(examples), NoCopy(tokenizer), max_new_tokens, joiner)


@functools.lru_cache(maxsize=16)
def _warn_once(examples: NoCopy, tokenizer: NoCopy, max_new_tokens: int, joiner: str) -> None:
    data: Examples = examples.value  # type: ignore[assignment]
    if cut := _cut_share(reference_lengths(data, tokenizer.value, joiner), max_new_tokens):
        share, fitting = cut
        logger.warning(
            "%.0f %% of the %s of %s are longer than max_new_tokens=%d and lose their end and EOS; set"
            " max_new_tokens=%d, which holds 95 %% of them, or a tokenizer that needs fewer tokens, such as %s:8000",
            share,
            "references and rejected texts" if any(map(rejected_of, evenly_spaced(data))) else "references",
            data.source,
            max_new_tokens,
            fitting,
            FIT,
        )
