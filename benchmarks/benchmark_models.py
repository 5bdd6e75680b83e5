"""Models, tokenizer and texts of the benchmarks: small models with random weights from a fixed seed.

Token 0 is padding, token 1 is EOS, the others are the words w2, w3, …, one token each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import torch
import transformers
from gymnasium.vector import VectorEnv
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

import tril_gym  # noqa: F401  registers the environments
from tril_gym.data import Example

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

VOCABULARY, WIDTH, LAYERS, HEADS = 2_000, 128, 4, 4
PAD, EOS, FIRST_WORD = 0, 1, 2
IDS = {"pad_token_id": PAD, "eos_token_id": EOS}


def gpt2(
    *,
    vocab_size: int = VOCABULARY,
    positions: int = 1024,
    layers: int = LAYERS,
    width: int = WIDTH,
    heads: int = HEADS,
    seed: int = 0,
) -> Any:
    """Build a GPT-2, by default a small one."""
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=positions,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        bos_token_id=EOS,
        **IDS,
        **{name: 0.0 for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config).eval()


def t5(*, vocab_size: int = VOCABULARY, layers: int = LAYERS, seed: int = 0) -> Any:
    """Build a small T5 with `layers` layers in the encoder and in the decoder."""
    config = T5Config(
        vocab_size=vocab_size,
        d_model=WIDTH,
        d_kv=WIDTH // HEADS,
        d_ff=4 * WIDTH,
        num_layers=layers,
        num_heads=HEADS,
        dropout_rate=0.0,
        decoder_start_token_id=PAD,
        tie_word_embeddings=False,
        **IDS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(WIDTH**-0.5)  # the scale of a tied head; without it every distribution is one token
    return model


@torch.no_grad()
def biased(model: Any, biases: Mapping[int, float]) -> Any:
    """Add a constant to the logits of some tokens, in place; return the model.

    GPT-2 keeps its architecture: its last normalisation outputs 1 in one column, for which only these tokens have a
    weight. T5 gets a language modelling head with a bias.
    """
    ids, values = torch.tensor(list(biases)), torch.tensor(list(biases.values()))
    if model.config.is_encoder_decoder:
        head = nn.Linear(WIDTH, model.config.vocab_size)
        head.weight.copy_(model.lm_head.weight)
        head.weight[ids] = 0.0
        head.bias.zero_()
        head.bias[ids] = values
        model.lm_head = head
    else:
        norm, column = model.transformer.ln_f, model.transformer.wte.weight[:, 0]
        norm.weight[0], norm.bias[0] = 0.0, 1.0
        column.zero_()
        column[ids] = values
    return model


@torch.no_grad()
def stopping(model: Any, mean: float, longest: int) -> Any:
    """Bias a model in place so that completions of at most `longest` tokens have `mean` tokens on average; return it.

    EOS has about the same probability at every token, and padding none.
    """
    probability, never = stop_probability(mean, longest), -30.0
    biased(model, {PAD: never, EOS: 0.0})
    prompts = torch.randint(FIRST_WORD, model.config.vocab_size, (32, 16), generator=torch.Generator().manual_seed(0))
    more = {"decoder_input_ids": prompts} if model.config.is_encoder_decoder else {}
    logits = model(input_ids=prompts, **more).logits
    own = logits[..., EOS].mean()
    logits[..., EOS] = -math.inf
    bias = math.log(probability / (1 - probability)) + float(logits.logsumexp(-1).mean() - own)
    return biased(model, {PAD: never, EOS: bias})


def stop_probability(mean: float, longest: int) -> float:
    """Solve (1 − (1 − p)ᴸ) / p = mean by bisection: the mean of a geometric length, cut at L = `longest`."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - (1 - middle) ** longest) / middle > mean else (low, middle)
    return high


def tokenizer_of_words(vocab_size: int = VOCABULARY) -> Any:
    """Build a tokenizer with one token per word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": PAD, "<eos>": EOS} | {f"w{token}": token for token in range(FIRST_WORD, vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", clean_up_tokenization_spaces=False
    )


def prompts_of_words(number: int, length: int, *, vocab_size: int = VOCABULARY, seed: int = 0) -> list[str]:
    """Draw `number` texts of `length` words each."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(FIRST_WORD, vocab_size, (number, length), generator=generator)
    return [" ".join(f"w{token}" for token in row) for row in ids.tolist()]


def text_envs(
    prompts: Sequence[str | Example],
    tokenizer: Any,
    num_envs: int,
    *,
    prompt_length: int,
    new_tokens: int,
    **settings: Any,
) -> VectorEnv:
    """Make our environment on these prompts or examples, without a reward unless the settings have one."""
    return gym.make_vec(
        "tril/CommonGen-v0",
        num_envs=num_envs,
        dataset=[prompt if isinstance(prompt, Example) else Example(prompt) for prompt in prompts],
        tokenizer=tokenizer,
        max_prompt_length=prompt_length,
        max_new_tokens=new_tokens,
        **{"reward": None, "autoreset_mode": "Disabled"} | settings,
    )


def word_ids(texts: list[str]) -> Tensor:
    """Return the ids, (B, P), of texts with equal numbers of words."""
    return torch.tensor([[int(word[1:]) for word in text.split()] for text in texts])
