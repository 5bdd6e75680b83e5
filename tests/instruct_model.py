"""A tiny model as instruct models are: a Qwen2 with a chat template, whose turns end in a token of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = (
    "system user assistant You are a colour expert . What is the of grass sky snow coal blood ? green blue white"
    " black red"
)
END, START, TURN = range(3)

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
COLOURS = {"grass": "green", "sky": "blue", "snow": "white", "coal": "black", "blood": "red"}


def instruct_tokenizer(
    template: str | None = TEMPLATE, *, extra: Sequence[str] = tuple(SPECIAL[1:2])
) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer in which each word is one token, with or without a space before it.

    Args:
        template: for chats.
        extra: markers beside EOS and padding that the tokenizer counts among its special tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [word for plain in WORDS.split() if len(plain) > 1 for word in (plain, f"Ġ{plain}")]
    vocabulary = {piece: number for number, piece in enumerate([*SPECIAL, *alphabet, *words])}
    inner = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens(SPECIAL)
    names: dict[str, Any] = {
        "eos_token": SPECIAL[TURN],
        "pad_token": SPECIAL[END],
        "extra_special_tokens": list(extra),
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False, **names)
    tokenizer.chat_template = template
    return tokenizer


def instruct_model(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0) -> Any:
    """Return a Qwen2 with random weights; its texts end at either of two ids."""
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer) + 5,  # as in real ones, which have more logits than tokens
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=TURN,
        pad_token_id=END,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.Qwen2ForCausalLM(config)
    model.generation_config.update(eos_token_id=[TURN, END], pad_token_id=END)
    return model


def question(thing: str) -> list[dict[str, str]]:
    """Return a chat that asks for a colour."""
    return [{"role": "user", "content": f"What is the colour of {thing}?"}]


def save_instruct_model(folder, tokenizer):
    """Save such a model with its tokenizer."""
    instruct_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
