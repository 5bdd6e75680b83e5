"""Networks of reward models: texts as ids, models by name, LoRA, and what is saved."""

import pytest
import torch
import transformers
from instruct_model import END, instruct_tokenizer, save_instruct_model
from instruct_model import TEMPLATE as TEMPLATE_OF_CHATS
from preference_pairs import polite_pairs, write_pairs
from reward_models import bart, gpt2, new_run, preference_margins, saved_model

from tril_gym.data.preferences import Pair
from tril_gym.reward_model.network import add_lora, encode_pairs, load_network, pair_texts
from tril_gym.rewards.neural.preference import TEMPLATE
from tril_gym.rewards.neural.training import FitConfig, train_tokenizer


class TestTemplate:
    def test_lays_out_the_text(self):
        pairs = [Pair("Q", "yes", "no")]
        tokenizer = train_tokenizer(["Q: yes", "Q: no"] * 10, FitConfig())
        [(chosen, rejected)] = encode_pairs(tokenizer, pairs, template="{prompt}: {completion}", max_length=16)
        assert [chosen, rejected] == tokenizer(["Q: yes", "Q: no"])["input_ids"]

    @pytest.mark.parametrize("prompt", ["{prompt}", "{prompt!s}", "{prompt:s}"])
    def test_a_prompt_is_read_however_it_is_spelled(self, prompt):
        assert pair_texts([Pair("Q", "yes", "no")], f"{prompt}: {{completion}}", None) == ["Q: yes", "Q: no"]

    @pytest.mark.parametrize("space", ["", " "])
    def test_an_answer_to_a_chat_begins_as_policies_write_it(self, space):
        """Some templates (Llama 2) write a space before the assistant's message."""
        chat = TEMPLATE_OF_CHATS.replace("'\n' + message", f"'{space}' + message").replace("assistant\n", "assistant")
        pair = Pair("user: What?", "green", "blue", messages=({"role": "user", "content": "What?"},))
        prompt = f"<|im_start|>user{space}What?<|im_end|>\n<|im_start|>assistant"
        expected = [f"{prompt}{space}green", f"{prompt}{space}blue"]
        assert pair_texts([pair], TEMPLATE, instruct_tokenizer(chat)) == expected

    def test_long_texts_are_cut_on_the_left(self):
        tokenizer = train_tokenizer(["a b c d e f g h"] * 10, FitConfig())
        [(ids, _)] = encode_pairs(tokenizer, [Pair("a b c d e f", " g h", " h g")], template=TEMPLATE, max_length=8)
        assert len(ids) == 8
        assert ids[0] == tokenizer.cls_token_id
        assert ids[1:] == tokenizer(" b c d e f g h")["input_ids"][1:]

    def test_a_text_without_tokens_is_read_as_padding(self):
        [(empty, other)] = encode_pairs(instruct_tokenizer(), [Pair("", "", "a")], template=TEMPLATE, max_length=8)
        assert empty == [END]
        assert other != empty

    def test_a_text_that_begins_with_bos_gets_no_second_one(self):
        """Rendered chats of Llama 3 begin with it, and its tokenizer puts it before every text."""
        tokenizer = train_tokenizer(["a b"] * 10, FitConfig())
        tokenizer.bos_token = tokenizer.cls_token  # its template puts this one first
        pairs = [Pair("", tokenizer.bos_token + "a b", "a b")]
        [(rendered, plain)] = encode_pairs(tokenizer, pairs, template=TEMPLATE, max_length=16)
        assert rendered == plain
        assert plain.count(tokenizer.bos_token_id) == 1

    def test_lone_surrogates_are_encoded(self):
        tokenizer = train_tokenizer(["a b"] * 10, FitConfig())
        encode_pairs(tokenizer, [Pair("\udce2", " a\udce2", " b")], template=TEMPLATE, max_length=16)


class TestPretrained:
    def test_a_decoder_gets_a_head_and_padding(self, tmp_path):
        model, tokenizer, new = load_network(gpt2(tmp_path), seed=0)
        assert new == ["score"]
        assert model.config.num_labels == 1
        assert model.config.pad_token_id == tokenizer.pad_token_id == tokenizer.eos_token_id
        again, *_ = load_network(str(tmp_path), seed=0)
        other, *_ = load_network(str(tmp_path), seed=1)
        assert torch.equal(model.score.weight, again.score.weight)
        assert not torch.equal(model.score.weight, other.score.weight)
        assert torch.equal(model.transformer.wte.weight, other.transformer.wte.weight)

    def test_of_long_texts_its_tokenizer_keeps_the_end(self, tmp_path):
        _, tokenizer, _ = load_network(gpt2(tmp_path), seed=0)
        pair = Pair("it is kind of you " * 9, " true", " false")
        [texts] = encode_pairs(tokenizer, [pair], template=TEMPLATE, max_length=8)
        assert [tokenizer.decode(ids[-1]) for ids in texts] == ["Ġtrue", "Ġfalse"]

    def test_a_head_of_other_labels_is_replaced(self, tmp_path):
        config = transformers.BertConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            vocab_size=800,
            num_labels=3,
        )
        name = saved_model(tmp_path, config, transformers.AutoModelForSequenceClassification)
        model, _, new = load_network(name, seed=0)
        assert new == ["classifier"]
        assert model.classifier.weight.shape == (1, 32)

    def test_refuses_what_is_no_model(self, tmp_path):
        with pytest.raises(ValueError, match="no reward model can be made of"):
            load_network(str(tmp_path), seed=0)

    def test_only_adapter_and_head_of_lora_train(self, tmp_path):
        model, _, new = load_network(gpt2(tmp_path), seed=0)
        wrapped = add_lora(model, new, rank=2)
        trained = {name for name, weight in wrapped.named_parameters() if weight.requires_grad}
        assert trained
        assert all("lora_" in name or "score" in name for name in trained)
        with pytest.raises(ValueError, match=r"LoRA cannot be added: .*--lora-targets"):
            add_lora(load_network(str(tmp_path), seed=0)[0], new, rank=2, targets="nothing")

    @pytest.mark.parametrize(("given", "alpha"), [({"lora_alpha": 3.0}, 3.0), ({}, 4)])
    def test_settings_of_lora(self, tmp_path, given, alpha):
        dataset = write_pairs(tmp_path / "pairs.jsonl", polite_pairs(60))
        run = new_run(dataset, tmp_path / "run", model=gpt2(tmp_path / "base"), lora_rank=2, **given)
        adapter = run.model.peft_config["default"]
        assert (adapter.r, adapter.lora_alpha) == (2, alpha)

    @pytest.mark.parametrize("lora_rank", [0, 2])
    @pytest.mark.parametrize("make", [gpt2, bart])
    def test_the_saved_model_gives_the_margins_of_the_run(self, tmp_path, make, lora_rank):
        dataset = write_pairs(tmp_path / "pairs.jsonl", polite_pairs(60))
        settings = {"model": make(tmp_path / "base"), "lora_rank": lora_rank, "max_length": None}
        settings |= {"lora_targets": "all-linear"} if lora_rank and make is bart else {}
        run = new_run(dataset, tmp_path / "run", **settings)
        run.run()
        assert run.config.max_length == 64
        assert preference_margins(tmp_path / "run", run.pairs.held_out) == pytest.approx(run.margins(), abs=1e-5)

    def test_refuses_more_tokens_than_the_model_can_read(self, tmp_path):
        dataset = write_pairs(tmp_path / "pairs.jsonl", polite_pairs(60))
        with pytest.raises(ValueError, match=r"max_length must be in \[2, 64\] for this model, got 65"):
            new_run(dataset, tmp_path / "run", model=gpt2(tmp_path / "base"), max_length=65)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path):
    tokenizer = instruct_tokenizer()
    save_instruct_model(tmp_path, tokenizer)
    load_network(str(tmp_path), seed=0)
    size = len(tokenizer) + 5  # rows of the model's embedding
    tokenizer.add_tokens([f"<new{number}>" for number in range(6)])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"has {size + 1} tokens, the model {size} .*embeddings\({size + 1}\)"):
        load_network(str(tmp_path), seed=0)
