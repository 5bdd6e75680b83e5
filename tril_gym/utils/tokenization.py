"""Load tokenizers by name or from a folder, encode text whatever it contains, and render chats."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tril_gym.utils.no_copy import NoCopy

UNREADABLE = "\ufffd"  # what tokenizers decode bytes to that are not a character, or not yet
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
MANY = 2_000  # texts that are tokenised together; with fewer, no threads are started, which do not survive a fork
# Settings of a tokenizer to which names of special tokens are text like any other.
AS_TEXT = {"add_special_tokens": False, "split_special_tokens": True, "truncation": False, "verbose": False}


def load_tokenizer(name: str | Path, **settings: Any) -> Any:
    """Return the tokenizer of that hub name or in that folder.

    Args:
        name: a hub name or a folder.
        settings: for the tokenizer's own `from_pretrained`.

    Raises:
        ValueError: there is none.
    """
    from transformers import AutoTokenizer  # imports torch, so only here

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **settings)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"no tokenizer could be loaded from {str(name)!r}; give a folder that tokenizer.save_pretrained wrote, or a"
            f" hub name, which needs a network ({reason})"
        ) from error
    # From a folder without tokenizer files transformers makes a tokenizer without words, and gives no warning.
    files = {*TOKENIZER_FILES, *tokenizer.vocab_files_names.values()}
    if Path(name).is_dir() and not any((Path(name) / file).is_file() for file in files):
        raise ValueError(f"{str(name)!r} has no tokenizer; save the model's there with tokenizer.save_pretrained")
    return tokenizer


def encode(tokenizer: Any, text: str) -> list[int]:
    """Tokenise a text without special tokens and without a limit of length.

    The name of a special token that the text contains, such as "<eos>", stays text.
    """
    ids = list(tokenizer(text, **AS_TEXT)["input_ids"])
    special = _special_ids(tokenizer)
    if special.isdisjoint(ids):
        return ids
    # Some vocabularies, such as T5's, have the names among their ordinary pieces: there they are spelled by letters.
    return [piece for token in ids for piece in (_letters(tokenizer, token) if token in special else [token])]


def decode(tokenizer: Any, ids: Sequence[int], *, with_special_tokens: bool = False) -> str:
    """Return ids as text; those beyond the tokenizer, which only a model has, give nothing."""
    size, skip = number_of_ids(tokenizer), not with_special_tokens
    known = [token for token in ids if token < size]
    text: str = tokenizer.decode(known, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
    return text


def number_of_ids(tokenizer: Any) -> int:
    """Return the largest id of a tokenizer and 1: its length, or more where its ids have gaps."""
    return _number_of_ids(NoCopy(tokenizer), len(tokenizer))


def check_model_size(tokenizer: Any, size: int, unit: str, *, of: str = "") -> None:
    """Raise if a model has fewer logits or embeddings than its tokenizer has tokens.

    Args:
        tokenizer: the tokenizer.
        size: how many the model has.
        unit: of what, for the message: "logits" or "embeddings".
        of: whose tokenizer it is, for the message.

    Raises:
        ValueError: names both numbers, and how to extend the model.
    """
    if (known := number_of_ids(tokenizer)) > size:
        raise ValueError(
            f"the tokenizer{of} has {known} tokens, the model {size} {unit}; extend the model to the tokenizer with"
            f" model.resize_token_embeddings({known}), and save it so"
        )


@functools.lru_cache(maxsize=16)
def _number_of_ids(tokenizer: NoCopy, length: int) -> int:
    known: Any = tokenizer.value
    return max(length, max(known.get_vocab().values(), default=0) + 1)


def decode_after_text(tokenizer: Any, ids: Sequence[int], *, with_special_tokens: bool = False) -> str:
    """Return ids as they read after other text: with the space before a first word, which some decoders drop."""
    if decodes_bytes(tokenizer):
        return decode(tokenizer, ids, with_special_tokens=with_special_tokens)
    anchor = _anchor_ids(NoCopy(tokenizer))
    both = decode(tokenizer, [*anchor, *ids], with_special_tokens=with_special_tokens)
    return both.removeprefix(decode(tokenizer, anchor, with_special_tokens=with_special_tokens))


def drops_first_space(tokenizer: Any) -> bool:
    """Return whether a completion that is decoded on its own loses the space before its first word (T5, Llama 2)."""
    ids = encode(tokenizer, " a")
    return decode(tokenizer, ids) != decode_after_text(tokenizer, ids)


@functools.lru_cache(maxsize=16)
def _anchor_ids(tokenizer: NoCopy) -> tuple[int, ...]:
    return tuple(encode(tokenizer.value, "a"))


def decodes_bytes(tokenizer: Any) -> bool:
    """Return whether a text is the bytes of its tokens in a row, whatever stands beside a token (GPT-2, Llama 3, Qwen).

    Other tokenizers leave out a space at the beginning, or tidy what they join.
    """
    from tokenizers import decoders

    try:
        return isinstance(tokenizer.backend_tokenizer.decoder, decoders.ByteLevel)
    except AttributeError:  # a tokenizer without the library of that name
        return False


def token_counts(tokenizer: Any, texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return how many tokens `encode` gives for each of N texts, (N,); of many much faster, on all cores."""
    few = texts[: None if len(texts) < MANY or not getattr(tokenizer, "is_fast", False) else 1]
    counts = [len(encode(tokenizer, text)) for text in few]
    special = _special_ids(tokenizer)
    # The first call of `encode` has set the backend to split names of special tokens, and neither to pad nor to cut.
    for text, found in zip(texts[len(few) :], _encodings(tokenizer, texts[len(few) :]), strict=True):
        counts.append(len(found) if special.isdisjoint(found) else len(encode(tokenizer, text)))
    return np.array(counts, dtype=np.int64)


def _encodings(tokenizer: Any, texts: Sequence[str]) -> Iterator[list[int]]:
    for first in range(0, len(texts), MANY):
        part = list(texts[first : first + MANY])
        yield from (found.ids for found in tokenizer.backend_tokenizer.encode_batch(part, add_special_tokens=False))


def _special_ids(tokenizer: Any) -> set[int]:
    """Return the special tokens that no text may have."""
    return {*tokenizer.all_special_ids, *_markers(tokenizer)} - {tokenizer.unk_token_id}


def _markers(tokenizer: Any) -> dict[int, str]:
    """Return the special tokens by id that were added without a role such as EOS, as "<|im_start|>" often is."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {token: marker.content for token, marker in added.items() if marker.special}


def hidden_token(tokenizer: Any, text: str) -> int | None:
    """Return the id of a token of this name that decoded texts do not show; None where there is none."""
    token = tokenizer.convert_tokens_to_ids(text)
    is_one = token is not None and tokenizer.convert_ids_to_tokens(token) == text  # not the unknown token
    return token if is_one and not decode(tokenizer, [token]) else None


def has_chat_template(tokenizer: Any) -> bool:
    """Return whether a tokenizer has a template to render chats with."""
    return getattr(tokenizer, "chat_template", None) is not None


def render_chat(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], template: str | None = None, *, is_open: bool = True
) -> str:
    """Return a chat as a template spells it.

    Args:
        tokenizer: gives the template's special tokens.
        messages: the chat.
        template: in Jinja; None: the tokenizer's own.
        is_open: up to where the assistant begins to write its next message.

    Raises:
        ValueError: there is no chat template, or it refuses these messages.
    """
    if template is None and not has_chat_template(tokenizer):
        raise ValueError(
            "a prompt is a list of chat messages, and the tokenizer has no chat template to render it with; use the"
            " tokenizer of an instruct model, a template in a file, chat_template=FILE or --chat-template FILE, or"
            " prompts that are texts"
        )
    settings = {} if template is None else {"chat_template": template}
    try:
        rendered: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=is_open, **settings
        )
    except Exception as error:  # of the template: it may refuse roles, or their order
        raise ValueError(f"the chat template of the tokenizer refuses {list(messages)!r}: {error}") from error
    return rendered


def encode_chat(tokenizer: Any, messages: Sequence[Mapping[str, Any]], template: str | None = None) -> list[int]:
    """Tokenise a rendered chat: the template's markers are special tokens, names of them in the contents stay text."""
    contents = [str(message["content"]) for message in messages]
    names = {*tokenizer.all_special_tokens, *_markers(tokenizer).values()}
    if not any(name in content for content in contents for name in names):
        return _encode_markers(tokenizer, render_chat(tokenizer, messages, template))
    parts = _markers_and_contents(tokenizer, messages, template)
    encoded = (encode(tokenizer, part) if n % 2 else _encode_markers(tokenizer, part) for n, part in enumerate(parts))
    return [token for ids in encoded for token in ids]


def _markers_and_contents(tokenizer: Any, messages: Sequence[Mapping[str, Any]], template: str | None) -> list[str]:
    """Return a rendered chat in parts: the markers at even places, between them the contents."""
    rendered = render_chat(tokenizer, messages, template)
    texts = [str(message["content"]) for message in messages]
    contents = [text.strip() for text in texts]
    # A content may be part of a marker, too, such as "s" of "<|im_start|>". Where it stands shows a chat with
    # characters that no chat has in place of the contents.
    stand_ins = [
        text.replace(own, f"\ue000{n}\ue001") if own else text
        for n, (text, own) in enumerate(zip(texts, contents, strict=True))
    ]
    replaced = [dict(message) | {"content": text} for message, text in zip(messages, stand_ins, strict=True)]
    parts = re.split("\ue000(\\d+)\ue001", render_chat(tokenizer, replaced, template))
    parts[1::2] = [contents[int(number)] for number in parts[1::2]]
    if "".join(parts) == rendered:
        return parts
    parts, end = [], 0  # the template reads the contents
    for content in contents:
        start = rendered.find(content, end)
        if start >= 0:  # else it leaves the content out, or changes it
            parts += [rendered[end:start], content]
            end = start + len(content)
    return [*parts, rendered[end:]]


def _encode_markers(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, **AS_TEXT | {"split_special_tokens": False})["input_ids"])


def _letters(tokenizer: Any, token: int) -> list[int]:
    """Return the ids of the letters of a token's name, as far as the vocabulary has them."""
    ids = [tokenizer.convert_tokens_to_ids(letter) for letter in tokenizer.convert_ids_to_tokens(token)]
    return [letter for letter in ids if letter is not None]


def special_tokens_of_prompts(tokenizer: Any, *, keeps_eos: bool) -> tuple[list[int], list[int]]:
    """Return the tokens before and after every prompt; without EOS unless it is kept."""
    before, after = special_tokens(tokenizer)
    return before, [token for token in after if keeps_eos or token != tokenizer.eos_token_id]


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer puts before and after every text, such as Llama's BOS and T5's `</s>`."""
    tokens, special = _marked(tokenizer, "a")
    if all(special):  # a vocabulary without this letter, as of DNA: its own first word
        words = (decode(tokenizer, [token]) for token in sorted(tokenizer.get_vocab().values()))
        found = (_marked(tokenizer, word) for word in words if word)
        tokens, special = next((one for one in found if not all(one[1])), (tokens, special))
    if all(special):
        return tokens, []
    first, last = special.index(0), len(special) - special[::-1].index(0)
    return tokens[:first], tokens[last:]


def _marked(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    """Return the tokens of a text with the special ones around it, and 1 for each of these, else 0."""
    encoded = tokenizer(text, return_special_tokens_mask=True)
    return list(encoded["input_ids"]), list(encoded["special_tokens_mask"])


def without_own_bos(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Return texts without the BOS that the tokenizer puts before them anyway; rendered chats may begin with it."""
    before, _ = special_tokens(tokenizer)
    puts_bos = before[:1] == [tokenizer.bos_token_id]
    return [text.removeprefix(tokenizer.bos_token) for text in texts] if puts_bos else list(texts)


def joiner_between(prompt: str, *completions: str) -> str:
    """Return what policies write between a prompt and a completion: a space, or nothing where white space is there.

    Completions that are compared begin alike, so white space at the boundary of one counts for all ("TL;DR:" and
    "My dog …" have none).
    """
    boundary = (prompt[-1:] or " ", *(completion[:1] for completion in completions))
    return "" if any(character.isspace() for character in boundary) else " "


def after_joiner(joiner: str, text: str) -> str:
    """Return a reference as policies write it: after one joiner, which some data already have and others do not."""
    return joiner + text.removeprefix(joiner)


def after_prompt(joiner: str, completion: str) -> str:
    """Return a completion as it follows a prompt: after the joiner, unless it is empty or begins with white space."""
    return completion if not completion or completion[0].isspace() else joiner + completion
