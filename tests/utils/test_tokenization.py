import json

import pytest
import transformers
from transformers import PreTrainedTokenizerFast

from tril_gym.envs.toy import toy_tokenizer
from tril_gym.utils.tokenization import load_tokenizer


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
