"""Tokenised prompts: alignment, truncation, special tokens, caching."""

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tril_gym.data import Example, Examples
from tril_gym.envs.prompts import PromptTable, prompt_table
from tril_gym.utils.tokenization import special_tokens

WORDS = {word: i for i, word in enumerate(["<pad>", "<eos>", "<bos>", *"abcdefgh", "end:", "<unk>"])}
PAD, EOS, BOS, A, B, C, D, E, F, G, H, END, UNK = range(13)


def tokenizer(template=None):
    inner = Tokenizer(WordLevel(WORDS, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    if template:
        inner.post_processor = TemplateProcessing(single=template, special_tokens=[("<bos>", BOS), ("<eos>", EOS)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")


def row(example, *, P, side="right", template=None, vocab_size=13):  # noqa: N803
    examples = Examples([example], source="here")
    table = PromptTable(examples, tokenizer(template), max_prompt_length=P, truncation_side=side, vocab_size=vocab_size)
    return table.rows(np.array([0]))[0].tolist()


def test_prompts_are_aligned_right():
    assert row(Example("a b"), P=4) == [-1, -1, A, B]
    assert row(Example("a b"), P=2) == [A, B]


def test_truncation_side():
    assert row(Example("a b c d"), P=2) == [A, B]
    assert row(Example("a b c d"), P=2, side="left") == [C, D]


def test_truncation_keeps_the_suffix():
    example = Example("a b c d end:", suffix=" end:")
    assert row(example, P=3) == [A, B, END]
    assert row(example, P=3, side="left") == [C, D, END]
    assert row(example, P=6) == [-1, A, B, C, D, END]
    with pytest.raises(ValueError, match=r"max_prompt_length is too short for example 0.*room for 1.*' end:', has 1"):
        row(example, P=1)


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_keeps_special_tokens(side):
    """Llama's BOS is before every prompt, T5's </s> after it; truncation keeps both."""
    kept = [A, B] if side == "right" else [C, D]
    assert row(Example("a b c d"), P=3, side=side, template="<bos> $A") == [BOS, *kept]
    assert row(Example("a b c d"), P=3, side=side, template="$A <eos>") == [*kept, EOS]
    assert row(Example("a b c d"), P=4, side=side, template="<bos> $A <eos>") == [BOS, *kept, EOS]
    example = Example("a b c d end:", suffix=" end:")
    assert row(example, P=5, side=side, template="<bos> $A <eos>") == [BOS, *kept, END, EOS]
    assert row(Example("a"), P=4, template="<bos> $A <eos>") == [-1, BOS, A, EOS]
    with pytest.raises(ValueError, match="besides the 2 special"):
        row(Example("a"), P=2, template="<bos> $A <eos>")


def test_special_tokens_before_and_after_a_text():
    assert special_tokens(tokenizer()) == ([], [])
    assert special_tokens(tokenizer("<bos> $A <eos>")) == ([BOS], [EOS])


def test_prompts_without_tokens_or_with_large_ids_are_refused():
    with pytest.raises(ValueError, match="example 0 of here has no tokens: ' '"):
        row(Example(" "), P=3, template="<bos> $A")
    with pytest.raises(ValueError, match="has token 6, but vocab_size is 5"):
        row(Example("d"), P=3, vocab_size=5)


def test_each_prompt_is_tokenised_once():
    calls = []

    class Counting:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def __call__(self, text, **keywords):
            calls.append(text)
            return self.inner(text, **keywords)

    examples, counting = Examples([Example("a b"), Example("c")], source="here"), Counting(tokenizer())
    settings = {"max_prompt_length": 3, "truncation_side": "right", "vocab_size": 13}
    table = prompt_table(examples, counting, **settings)
    assert prompt_table(examples, counting, **settings) is table
    assert prompt_table(examples, counting, **settings | {"max_prompt_length": 4}) is not table
    calls.clear()
    assert calls == [], "nothing is tokenised before it is drawn"
    assert table.rows(np.array([1, 0, 1])).tolist() == [[-1, -1, C], [-1, A, B], [-1, -1, C]]
    table.rows(np.array([0, 1]))[:] = 99
    assert table.rows(np.array([0])).tolist() == [[-1, A, B]], "the returned array belongs to the caller"
    assert sorted(calls) == ["a b", "c"]


def test_environments_with_other_settings_do_not_share_tokenised_prompts():
    examples, same_tokenizer = Examples([Example("a b c end: d")], source="here"), tokenizer("$A <eos>")
    settings = {"max_prompt_length": 4, "truncation_side": "left", "vocab_size": 13}
    changes = [
        ({}, [C, END, D, EOS]),
        ({"truncation_side": "right"}, [A, B, C, EOS]),
        ({"keeps_eos": False}, [B, C, END, D]),
        ({"turn_marks": ("end:",)}, [-1, END, D, EOS]),
        ({"max_prompt_length": 3}, [END, D, EOS]),
    ]
    for change, expected in changes + changes:
        found = prompt_table(examples, same_tokenizer, **settings | change).rows(np.array([0]))
        assert found.tolist() == [expected], change


def test_the_tokenizer_is_not_changed():
    """Padding side, truncation and template of a shared tokenizer stay the same."""
    shared = tokenizer("<bos> $A <eos>")
    before = (
        shared("a b c d")["input_ids"],
        shared.padding_side,
        shared.truncation_side,
        shared.backend_tokenizer.to_str(),
    )
    examples = Examples([Example("a b c d")], source="here")
    PromptTable(examples, shared, max_prompt_length=3, truncation_side="left", vocab_size=13).rows(np.array([0]))
    after = (
        shared("a b c d")["input_ids"],
        shared.padding_side,
        shared.truncation_side,
        shared.backend_tokenizer.to_str(),
    )
    assert after == before
