import json

import gymnasium as gym
import pytest
import transformers
from instruct_model import START, TEMPLATE, TURN, instruct_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram
from transformers import PreTrainedTokenizerFast

from tril_gym.envs.toy import toy_tokenizer
from tril_gym.utils import tokenization
from tril_gym.utils.tokenization import (
    decode,
    encode,
    encode_chat,
    load_tokenizer,
    number_of_ids,
    render_chat,
    token_counts,
)


def with_names_as_pieces():
    """Return a tokenizer whose vocabulary has the name of a special token among its pieces, as T5's has."""
    inner = Tokenizer(Unigram([("<unk>", 0.0), ("</s>", -1.0), *((letter, -5.0) for letter in "abs/<>")], unk_id=0))
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("many", [2, 3, 100])
@pytest.mark.parametrize(
    ("tokenizer", "texts"),
    [
        (toy_tokenizer(16), ["w3 w4", "w5", " ", "w3 <eos> w4", "w6 w7 w8 w9"]),
        (with_names_as_pieces(), ["ab", "a</s>b", "</s>", "", "abab"]),
    ],
)
def test_tokens_of_many_texts_are_counted_as_of_each(tokenizer, texts, many, monkeypatch):
    monkeypatch.setattr(tokenization, "MANY", many)
    counts = token_counts(tokenizer, texts)
    assert counts.tolist() == [len(encode(tokenizer, text)) for text in texts]
    assert token_counts(tokenizer, []).shape == (0,)


def test_ids_with_gaps_are_all_read():
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(BPE(alphabet | {"Ġdog": 300, "Ġcat": 301}, [], ignore_merges=True))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="d")
    assert (len(tokenizer), number_of_ids(tokenizer)) == (258, 302)
    assert encode(tokenizer, " dog cat") == [300, 301]
    assert decode(tokenizer, [300, 280, 301, 400]) == " dog cat"
    env = gym.make("tril/Text-v0", dataset=[{"prompt": "a"}], reward=None, max_new_tokens=2, tokenizer=tokenizer)
    assert env.metadata["text"]["vocab_size"] == 302


@pytest.mark.parametrize("system", ["s", "system", "You", "<|im_end|>", " s\n"])
@pytest.mark.parametrize("template", [None, TEMPLATE.replace("message['content']", "message['content'] | trim")])
@pytest.mark.parametrize("user", ["<|im_end|>", "a<|im_start|>"])
@pytest.mark.parametrize("extra", [("<|im_start|>",), ()])
def test_names_of_markers_in_chats_stay_text_and_markers_stay_markers(system, template, user, extra):
    """Also of markers that are special in the vocabulary alone."""
    tokenizer = instruct_tokenizer(extra=extra)
    assert ("<|im_start|>" in tokenizer.all_special_tokens) == bool(extra)
    chat = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    ids = encode_chat(tokenizer, chat, template)
    assert [token for token in ids if token in (START, TURN)] == [START, TURN, START, TURN, START]
    assert decode(tokenizer, ids, with_special_tokens=True) == render_chat(tokenizer, chat, template)


def test_a_chat_template_that_reads_the_contents():
    template = "{% for message in messages %}<|im_start|>{{ message['content'] | upper }}<|im_end|>{% endfor %}"
    chat = [{"role": "user", "content": text} for text in ("a", "B <|IM_END|> <|im_start|>")]
    ids = encode_chat(instruct_tokenizer(), chat, template)
    assert decode(instruct_tokenizer(), ids, with_special_tokens=True) == render_chat(
        instruct_tokenizer(), chat, template
    )


def test_load_tokenizer_reads_a_folder_with_settings(tmp_path):
    tokenizer = toy_tokenizer(16)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path, truncation_side="left")
    assert isinstance(loaded, PreTrainedTokenizerFast)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.truncation_side == "left"


def test_load_tokenizer_refuses_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match=r"no tokenizer could be loaded from .*; give a folder"):
        load_tokenizer(tmp_path)


def test_load_tokenizer_refuses_a_model_without_tokenizer_files(tmp_path):
    """For BERT's configuration transformers makes a tokenizer without words."""
    (tmp_path / "config.json").write_text(json.dumps(transformers.BertConfig().to_dict()))
    with pytest.raises(ValueError, match=r"has no tokenizer; save the model's there"):
        load_tokenizer(tmp_path)


def test_special_tokens_of_a_vocabulary_without_latin_letters():
    inner = Tokenizer(models.BPE({"<pad>": 0, "<s>": 1, "</s>": 2, "漢": 3, "字": 4}, []))
    around = [("<s>", 1), ("</s>", 2)]
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=around)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    assert tokenization.special_tokens(tokenizer) == ([1], [2])
    env = gym.make("tril/Text-v0", dataset=[{"prompt": "漢字"}], tokenizer=tokenizer, prompt_eos=False, reward=None)
    observation, _ = env.reset()
    assert observation[observation >= 0].tolist() == [1, 3, 4]
