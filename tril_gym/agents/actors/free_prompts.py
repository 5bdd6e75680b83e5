"""Completions of prompts that no environment gives: to try out a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch

from tril_gym.agents.collection.generation import write_completions
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.models.backbone import longest_completion
from tril_gym.models.texts import Texts
from tril_gym.utils.config_fields import check_integer
from tril_gym.utils.stop_strings import check_stop
from tril_gym.utils.text_codec import TextCodec
from tril_gym.utils.tokenization import encode, encode_chat, special_tokens_of_prompts

USUAL_LENGTH = 64  # new tokens where none is named


Chat = Sequence[Mapping[str, Any]]  # messages with "role" and "content"


def complete(
    policy: Any,
    prompts: Sequence[str | Chat],
    *,
    max_new_tokens: int | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int = 0,
    check_model: bool = True,
) -> list[str]:
    """Return what a policy writes after each prompt, without special tokens, up to a stop string.

    Args:
        policy: an `LMPolicy`; it samples as its decoding says.
        prompts: B texts, as an environment would give them, or chats, which the tokenizer's chat template renders.
        max_new_tokens: T; None: 64, or as many as the model has positions for.
        stop: strings at which a text ends, too.
        seed: random seed. What is written after a prompt depends on the seed, the prompt and its place in the list.
        check_model: first find how the model must be read; see `LMPolicy.check_readings`.

    Raises:
        ValueError: a prompt is no text or has no tokens, the policy has no tokenizer, its texts could not end, or the
            model cannot be read.
    """
    ids = prompt_ids(policy, prompts)
    width = max(map(len, ids))
    backbone = policy.language_model.backbone
    if max_new_tokens is None:  # where not even one token fits, `check` says what is too long
        length = max(1, longest_completion(backbone, width, USUAL_LENGTH))
    else:
        length = check_integer("max_new_tokens", max_new_tokens, 1)
        if 0 < (most := longest_completion(backbone, width, length)) < length:
            raise ValueError(
                f"max_new_tokens must be at most {most} after a prompt of {width} tokens, for which this model has"
                f" positions, got {length}"
            )
    ends = policy.eos_token_ids or (policy.tokenizer.eos_token_id,)
    if None in ends:
        raise ValueError(
            "the policy's texts could not end: neither its generation config nor its tokenizer names an EOS; set"
            " policy.model.generation_config.eos_token_id"
        )
    layout = TextLayout(
        max_prompt_length=width,
        max_new_tokens=length,
        vocab_size=policy.vocab_size,
        eos_token_ids=ends,
        stop=check_stop(stop, policy.tokenizer),
        tokenizer=policy.tokenizer,
    )
    policy.check(layout)
    if check_model:
        policy.check_readings(layout)
    draws = torch.rand(len(ids), length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    begun = Texts.from_ids(ids, [[]] * len(ids), max_new_tokens=length)
    written = write_completions(policy, begun, [{} for _ in ids], layout, draws).texts()
    codec = TextCodec(policy.tokenizer)
    return [layout.stop_strings.cut(codec.text(written.completion_ids(row))) for row in range(len(ids))]


def prompt_ids(policy: Any, prompts: Sequence[str | Chat]) -> list[list[int]]:
    """Tokenise prompts as environments do for this policy: a decoder-only model's end in no EOS."""
    if policy.tokenizer is None:
        raise ValueError("the policy has no tokenizer to read prompts with; load it with one")
    if isinstance(prompts, str) or not prompts:
        raise ValueError(f"prompts must be a list of one text or more, got {prompts!r}")
    keeps_eos = policy.model.config.is_encoder_decoder
    before, after = special_tokens_of_prompts(policy.tokenizer, keeps_eos=keeps_eos)
    found = []
    for prompt in prompts:
        if is_chat(prompt):
            found.append(encode_chat(policy.tokenizer, prompt))
            continue
        body = encode(policy.tokenizer, prompt) if isinstance(prompt, str) else []
        if not body:
            unknown = ", in which the tokenizer knows no word" if isinstance(prompt, str) and prompt.strip() else ""
            raise ValueError(
                f"a prompt must be a text with a token or more, or a list of messages, got {prompt!r}{unknown}"
            )
        found.append([*before, *body, *after])
    return found


def is_chat(prompt: Any) -> TypeGuard[Chat]:
    """Return whether a prompt is a list of messages."""
    return isinstance(prompt, list | tuple) and bool(prompt) and all(isinstance(it, Mapping) for it in prompt)
