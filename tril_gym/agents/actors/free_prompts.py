"""Completions of prompts that no environment gives: to try out a policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tril_gym.agents.collection.layout import TextLayout
from tril_gym.models.backbone import longest_completion
from tril_gym.models.text_codec import TextCodec
from tril_gym.models.texts import Texts
from tril_gym.utils.tokenization import encode, special_tokens_of_prompts

USUAL_LENGTH = 64  # new tokens where none is named


def complete(policy: Any, prompts: Sequence[str], *, max_new_tokens: int | None = None, seed: int = 0) -> list[str]:
    """Return what a policy writes after each prompt, without special tokens.

    Args:
        policy: an `LMPolicy`; it samples as its decoding says.
        prompts: B texts, as an environment would give them.
        max_new_tokens: T; None: 64, or as many as the model has positions for.
        seed: random seed. What is written after a prompt depends on the seed, the prompt and its place in the list.

    Raises:
        ValueError: a prompt is no text or has no tokens, the policy has no tokenizer, or its texts could not end.
    """
    texts = Texts.from_ids(prompt_ids(policy, prompts), [[]] * len(prompts), max_new_tokens=0)
    width = texts.prompts.shape[1]
    length = max_new_tokens
    if length is None:  # where not even one token fits, `check` says what is too long
        length = max(1, longest_completion(policy.language_model.backbone, width, USUAL_LENGTH))
    ends = policy.eos_token_ids or (policy.tokenizer.eos_token_id,)
    layout = TextLayout(
        max_prompt_length=width, max_new_tokens=length, vocab_size=policy.vocab_size, eos_token_ids=ends
    )
    policy.check(layout)
    draws = torch.rand(len(prompts), length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    written: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts))
    writer = policy.start(texts, [{} for _ in prompts], layout)
    for column in range(length):
        tokens = writer.next(draws[rows, column])[0].tolist()
        for row, token in zip(rows.tolist(), tokens, strict=True):
            written[row].append(token)
        going = torch.tensor([token not in ends for token in tokens])
        if not going.any():
            break
        if not going.all():
            writer.keep(going.nonzero()[:, 0])
            rows = rows[going]
    writer.close()
    codec = TextCodec(policy.tokenizer)
    return [codec.decode(ids) for ids in written]


def prompt_ids(policy: Any, prompts: Sequence[str]) -> list[list[int]]:
    """Tokenise prompts as environments do for this policy: a decoder-only model's end in no EOS."""
    if policy.tokenizer is None:
        raise ValueError("the policy has no tokenizer to read prompts with; load it with one")
    if isinstance(prompts, str) or not prompts:
        raise ValueError(f"prompts must be a list of one text or more, got {prompts!r}")
    keeps_eos = policy.model.config.is_encoder_decoder
    before, after = special_tokens_of_prompts(policy.tokenizer, keeps_eos=keeps_eos)
    found = []
    for prompt in prompts:
        body = encode(policy.tokenizer, prompt) if isinstance(prompt, str) else []
        if not body:
            raise ValueError(f"a prompt must be a text with a token or more, got {prompt!r}")
        found.append([*before, *body, *after])
    return found
