r"""Toy: a small environment whose optimal texts, and the value of a guide, are known in closed form.

Words are `<pad>`, `<eos>` and `w2 … w15`. The environment computes the reward itself, at most 1 for a text:

- "count": the share of the T possible words that are in the good set, which has one word of `good_every` (3); given
  word by word (`dense`) or at the end.
- "sparse": 1 if the text is the prompt's words in reverse order, then EOS; else 0.
- "prefix": 1 if the text begins with the prompt's words in reverse order, whatever follows; else 0. Neither EOS nor the
  last token matters.
- "stop": 1 if EOS follows exactly the number of words that the prompt's first word determines; else 0.

A noisy guide writes the optimal token with probability q, else any of the V uniformly; q = 0 is the uniform guide.

n texts, V words, P prompt tokens, T new tokens.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from tril_gym.data.example import Example
from tril_gym.data.examples import Examples
from tril_gym.envs.arrays import Floats, Ids, Mask
from tril_gym.envs.config import MAX_LENGTH, MAX_VOCABULARY, TextEnvConfig
from tril_gym.utils.config_fields import check_choice, check_flag, check_integer

Rule = Literal["count", "sparse", "prefix", "stop"]

PAD, EOS, FIRST_WORD = 0, 1, 2
NUM_EXAMPLES = 64
MAX_EXAMPLES = 1_000_000


@dataclass(frozen=True)
class ToyRules:
    """The reward of the toy environment."""

    rule: Rule = "count"
    dense: bool = False  # "count" only: reward each word
    vocab_size: int = 16  # V
    max_new_tokens: int = 8  # T
    good_every: int = 3  # "count" only: one of this number of words is in the good set

    def __post_init__(self) -> None:
        check_choice("rule", self.rule, get_args(Rule))
        if self.dense and self.rule != "count":
            raise ValueError(f'dense=True needs rule="count"; {self.rule!r} can be scored at the end only')
        check_integer("vocab_size", self.vocab_size, 4, MAX_VOCABULARY)
        check_integer("max_new_tokens", self.max_new_tokens, 2, MAX_LENGTH)
        check_integer("good_every", self.good_every, 1)

    @property
    def good_words(self) -> Ids:
        """The good set of "count"."""
        return np.arange(FIRST_WORD, self.vocab_size, self.good_every)


def toy_rewards(rules: ToyRules, prompts: Ids, completions: Ids, lengths: Ids, has_ended: Mask) -> Floats:
    """Return the reward of the last token of each text: (n, P), (n, T), (n,), (n,) -> (n,)."""
    if rules.rule == "count":
        is_good = np.isin(completions, rules.good_words)  # (n, T); -1 is in no set
        if rules.dense:
            share = np.take_along_axis(is_good, lengths[:, None] - 1, axis=1)[:, 0] / rules.max_new_tokens
        else:
            share = np.where(has_ended, is_good.sum(axis=1) / rules.max_new_tokens, 0.0)
        return share.astype(np.float64, copy=False)
    if rules.rule == "sparse":
        return (has_ended & (completions == optimal_completions(rules, prompts)).all(axis=1)).astype(np.float64)
    if rules.rule == "prefix":
        best = optimal_completions(rules, prompts)
        return (has_ended & ((completions == best) | (best < FIRST_WORD)).all(axis=1)).astype(np.float64)
    has_stopped = np.take_along_axis(completions, lengths[:, None] - 1, axis=1)[:, 0] == EOS
    return (has_ended & has_stopped & (lengths - 1 == optimal_lengths(rules, prompts))).astype(np.float64)


def optimal_lengths(rules: ToyRules, prompts: Ids) -> Ids:
    """Return the number of words before EOS in each optimal text, below T; not for "count": (n, P) -> (n,)."""
    is_word = prompts >= 0
    if rules.rule in ("sparse", "prefix"):
        return np.minimum(is_word.sum(axis=1), rules.max_new_tokens - 1)
    first = np.take_along_axis(prompts, is_word.argmax(axis=1)[:, None], axis=1)[:, 0]
    return 1 + (first - FIRST_WORD) % (rules.max_new_tokens - 1)


def optimal_completions(rules: ToyRules, prompts: Ids) -> Ids:
    """Return a text with reward 1 for each prompt, EOS included: (n, P) -> (n, T), -1 after the end."""
    n, T = len(prompts), rules.max_new_tokens  # noqa: N806
    if rules.rule == "count":
        starts = prompts[:, -1:] + np.arange(T)  # any good words are optimal; these differ between prompts
        return rules.good_words[starts % len(rules.good_words)]
    best = np.full((n, T), -1, np.int64)
    for row, length in enumerate(optimal_lengths(rules, prompts).tolist()):
        words = prompts[row][prompts[row] >= 0]
        right = words[np.arange(length) % len(words)] if rules.rule == "stop" else words[::-1][:length]
        best[row, :length] = right
        best[row, length] = EOS
    return best


def guide_value(rules: ToyRules, prompts: Ids, q: float) -> Floats:
    """Return the expected reward of a noisy guide from each prompt: (n, P) -> (n,).

    a = q + (1 − q)/V is the probability that the guide writes the optimal token where only one is optimal.

        sparse: a^(L+1)       L words and EOS, each exactly right
        prefix: a^L           L words, then anything
        stop:   b^L a         b = q + (1 − q)(V − 1)/V, any of the V − 1 words, then EOS
        count:  Σ_{t<T} c^t g / T      c = 1 − (1 − q)/V, no EOS so far; g = q + (1 − q)·|good|/V, a good word
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"q must be a probability, got {q}")
    V, T = rules.vocab_size, rules.max_new_tokens  # noqa: N806
    exact = q + (1 - q) / V
    if rules.rule == "count":
        alive = (1 - (1 - q) / V) ** np.arange(T)
        good = q + (1 - q) * len(rules.good_words) / V
        return np.full(len(prompts), alive.sum() * good / T)
    lengths = optimal_lengths(rules, prompts)
    if rules.rule == "prefix":
        return np.asarray(exact**lengths, np.float64)
    right_word = exact if rules.rule == "sparse" else q + (1 - q) * (V - 1) / V
    return np.asarray(right_word**lengths * exact, np.float64)


def guide_tokens(rules: ToyRules, prompts: Ids, completions: Ids, draws: Floats, *, q: float) -> Ids:
    """Return the next tokens of a noisy guide: (n, P), (n, T) with -1 in empty cells, (n,) in [0, 1) -> (n,).

    With probability q that is the token of the optimal text at this position, EOS after its end; else any of the V.
    """
    best = optimal_completions(rules, prompts)
    here = np.take_along_axis(best, (completions >= 0).sum(axis=1)[:, None], axis=1)[:, 0]
    noise = np.minimum(
        (np.maximum(draws - q, 0.0) / max(1 - q, 1e-12) * rules.vocab_size).astype(np.int64), rules.vocab_size - 1
    )
    return np.where(draws < q, np.where(here < 0, EOS, here), noise)


def optimal_value(rules: ToyRules) -> float:
    """Return the highest reward of a text: 1 from every prompt and under every rule."""
    return 1.0


def toy_config(
    *,
    rule: Rule = "count",
    dense: bool = False,
    vocab_size: int = 16,
    max_prompt_length: int = 4,
    max_new_tokens: int = 8,
    min_new_tokens: int = 0,
    num_examples: int = NUM_EXAMPLES,
    good_every: int = 3,
) -> TextEnvConfig:
    """Return the configuration of the toy environment."""
    rules = ToyRules(rule, check_flag("dense", dense), vocab_size, max_new_tokens, good_every)
    return TextEnvConfig(
        _examples(
            rules,
            check_integer("max_prompt_length", max_prompt_length, 1, MAX_LENGTH),
            check_integer("num_examples", num_examples, 1, MAX_EXAMPLES),
        ),
        toy_tokenizer(vocab_size),
        max_prompt_length=max_prompt_length,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        reward_fn=functools.partial(toy_rewards, rules),
        dense_reward=dense,
    )


@functools.lru_cache(maxsize=8)
def _examples(rules: ToyRules, max_prompt_length: int, num_examples: int) -> Examples:
    """Draw prompts of different lengths with a fixed seed; the reference of each is an optimal text."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(num_examples):
        length = rng.integers(min(2, max_prompt_length), max_prompt_length + 1)
        prompt = rng.integers(FIRST_WORD, rules.vocab_size, size=(1, length))
        best = optimal_completions(rules, prompt)[0]
        found.append(Example(to_text(prompt[0]), references=(to_text(best[best >= FIRST_WORD]),)))
    return Examples(found, source="the toy environment")


def to_text(words: Ids) -> str:
    """Return word ids as text."""
    return " ".join(f"w{word}" for word in words.tolist())


@functools.lru_cache(maxsize=8)
def toy_tokenizer(vocab_size: int) -> Any:
    """Return a tokenizer of whole words; `<pad>` is 0 and `<eos>` 1."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast  # imports no torch

    words = {"<pad>": PAD, "<eos>": EOS} | {f"w{word}": word for word in range(FIRST_WORD, vocab_size)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", clean_up_tokenization_spaces=False
    )
