import json
import shutil

import gymnasium as gym
import numpy as np
import pytest
import tiny_models
import torch
from text_doubles import EXAMPLES, TOKENIZERS
from tiny_models import check_independence, score
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer

from tril_gym import rewards
from tril_gym.rewards.neural.adapters import classifier_on
from tril_gym.utils.text_codec import TextCodec

GPT2_TOKENS = {"pad_token": "</s>"}  # the usual padding of decoders in reward models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a reward model, a BERT."""
    return tiny_models.classifier(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def decoder(request, tmp_path_factory):
    """Return the folder of a reward model made of a decoder without padding token."""
    where = tmp_path_factory.mktemp(request.param)
    return tiny_models.classifier(where, request.param, layout="none", tokens={}, pad_token_id=None)


def raw(folder, text):
    """Return the model's output for one text, at its last token."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return float(model(**AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")).logits)


TEMPLATE = "<s>{prompt}\nTL;DR {completion}</s>"


@pytest.mark.parametrize("template", ["{prompt}{completion}", TEMPLATE])
def test_score_is_the_output_for_the_template(folder, decoder, template):
    for where in (folder, decoder):
        reward = rewards.load("preference", model=where, template=template)
        found = score(reward, ["a cat", "{x} a longer dog"], prompts=["who? ", "w "])
        texts = [
            template.format(prompt="who? ", completion="a cat"),
            template.format(prompt="w ", completion="{x} a longer dog"),
        ]
        # In one batch, without padding token, and with texts that end with EOS.
        assert found == pytest.approx([raw(where, text) for text in texts], abs=1e-5)
        assert abs(found[0] - found[1]) > 1e-3


def test_scores_do_not_depend_on_the_batch(folder, decoder):
    completions = [*tiny_models.ODD, "the plot", "a cat sits on the mat"]
    for where in (folder, decoder):
        for batch_size in (64, 2):
            reward = rewards.load("preference", model=where, batch_size=batch_size, template=TEMPLATE)
            check_independence(reward, completions, prompts=["a", "bc", ""] * 4)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_encoder_decoder_models_accept_eos_within_texts(tmp_path, family):
    # The models refuse batches whose texts have different numbers of EOS.
    tokens = {"pad_token": "<pad>"}
    where = tiny_models.classifier(tmp_path, family, layout="eos", tokens=tokens)
    check_independence(rewards.load("preference", model=where), ["a", "b </s> c", "</s></s>", "a dog", "", "x" * 99])


def test_long_texts_are_truncated_at_the_beginning(folder):
    reward = rewards.load("preference", model=folder, max_length=12)  # 10 and two special tokens
    far, other, near = score(reward, ["12345"] * 3, prompts=["a dogs", "ab dogs", "a dOgs"])
    assert far == pytest.approx(other, abs=1e-5)
    assert abs(far - near) > 1e-3


def test_a_long_model_reads_1024_tokens(tmp_path):
    model = tiny_models.made("AutoModelForSequenceClassification", "bert", num_labels=1, max_position_embeddings=1100)
    tiny_models.saved(tmp_path, model, tiny_models.tokenizer("both", max_length=1100, **tiny_models.BERT_TOKENS))
    reward = rewards.load("preference", model=tmp_path)
    within, other, beyond = score(reward, ["x" * 1021] * 3, prompts=["a", "b", "ab"])  # and two special tokens
    assert beyond == pytest.approx(other, abs=1e-5)
    assert abs(within - other) > 1e-4


def test_minus_the_first_reference(folder):
    plain = rewards.load("preference", model=folder)
    less = rewards.load("preference", model=folder, minus_reference=True)
    prompts, completions, references = ["p", "q", "p"], ["a", "b", "c"], [["r", "s"], ["t"], ["r"]]
    expected = score(plain, completions, prompts=prompts) - score(plain, ["r", "t", "r"], prompts=prompts)
    for _ in range(2):
        assert score(less, completions, prompts=prompts, references=references) == pytest.approx(expected, abs=1e-5)
    assert score(less, ["r"], references=[["r"]]) == pytest.approx([0.0], abs=1e-5)
    with pytest.raises(ValueError, match=r"preference with minus_reference compares with references, and 1 of 2"):
        score(less, ["a", "b"], references=[["r"], []])


def test_the_reference_begins_as_the_completion_does(folder):
    plain = rewards.load("preference", model=folder)
    less = rewards.load("preference", model=folder, minus_reference=True)
    completions, prompts = [" a", " a", ""], ["p", "p ", "p"]
    expected = score(plain, completions, prompts=prompts) - score(plain, [" r", "r", " r"], prompts=prompts)
    found = score(less, completions, prompts=prompts, references=[["r"]] * 3)
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_completions_of_all_tokenizers_begin_alike(folder, name):
    """A reward model reads prompt + " " + completion, as it was trained on, whether or not a space is decoded first."""
    tokenizer, example = TOKENIZERS[name](), EXAMPLES[0]
    settings = {"model": folder, "minus_reference": True}
    env = gym.make(
        "tril/Text-v0",
        dataset=[example],
        tokenizer=tokenizer,
        max_new_tokens=30,
        reward="preference",
        reward_settings={"preference": settings},
    )
    env.reset(seed=0)
    for token in [*TextCodec(tokenizer).ids(" a dog"), tokenizer.eos_token_id]:
        _, found, _, _, info = env.step(token)
    assert info["completion"] == " a dog"
    reference = example.references[0]
    plain = rewards.load("preference", model=folder)
    written, wanted = score(plain, [" a dog", f" {reference}"], prompts=[example.prompt] * 2)
    assert found == pytest.approx(written - wanted, abs=1e-5)


def test_scores_of_references_are_cached(folder, monkeypatch):
    monkeypatch.setattr("tril_gym.rewards.neural.preference.CACHED_TEXTS", 2)
    less = rewards.load("preference", model=folder, minus_reference=True)
    read, logits = [], less.classifier.logits
    monkeypatch.setattr(
        less.classifier, "logits", lambda texts, **how: read.append(list(texts)) or logits(texts, **how)
    )
    first = score(less, ["a", "b"], references=[["r"], ["s"]])
    assert read == [["pa", "pb"], ["pr", "ps"]]
    again = score(less, ["a", "b", "c"], references=[["r"], ["s"], ["t"]])
    assert read[2:] == [["pa", "pb", "pc"], ["pt"]]
    assert again[:2] == pytest.approx(first, abs=1e-5)
    score(less, ["a"], references=[["r"]])  # the oldest of three, so no longer cached
    assert read[-1] == ["pr"]


def test_defaults_come_from_training(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "reward_model.json").write_text(json.dumps({"template": TEMPLATE, "max_length": 20, "seed": 3}))
    said = rewards.load("preference", model=tmp_path)
    named = rewards.load("preference", model=folder, template=TEMPLATE, max_length=20)
    long = "a dog runs after the ball"
    assert score(said, [long, "b"]).tolist() == score(named, [long, "b"]).tolist()
    other = rewards.load("preference", model=tmp_path, template="{completion}", max_length=30)
    assert (other.template, other.max_length) == ("{completion}", 30)
    assert score(other, [long, "b"]).tolist() != score(said, [long, "b"]).tolist()
    (tmp_path / "reward_model.json").write_text("{")
    with pytest.raises(ValueError, match=r"reward_model\.json is damaged: "):
        rewards.load("preference", model=tmp_path)


CHAT_TEMPLATE = (
    "<s>{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ '…' if add_generation_prompt else '.' }}"
)
CHATS = [[{"role": "user", "content": "who"}], [{"role": "system", "content": "w"}, {"role": "user", "content": "?"}]]


@pytest.fixture(scope="module")
def of_chats(tmp_path_factory):
    """Return the folder of a reward model whose chat template writes BOS, and whose tokenizer puts one itself."""
    where = tmp_path_factory.mktemp("chats")
    tiny_models.classifier(where, "llama", layout="bos", tokens={"bos_token": "<s>"}, pad_token_id=None)
    tokenizer = AutoTokenizer.from_pretrained(where)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(where)
    return where


class TestChats:
    @staticmethod
    def scores(reward, chats=CHATS, completions=("a cat", "a dog"), references=(["r"], ["s"])):
        return reward(
            ["p", "q"], completions, references, [{"prompt_messages": chat} if chat else {} for chat in chats]
        )

    def test_are_read_by_the_model_s_own_template(self, of_chats):
        expected = [raw(of_chats, text) for text in ("[user]who[assistant]a cat.", "[system]w[user]?[assistant]a dog.")]
        for settings in ({}, {"chat": True}):
            assert self.scores(rewards.load("preference", model=of_chats, **settings)) == pytest.approx(
                expected, abs=1e-5
            )
        assert abs(expected[0] - expected[1]) > 1e-3

    def test_special_tokens_are_those_of_the_template(self, of_chats, tmp_path):
        tokenizer = AutoTokenizer.from_pretrained(of_chats)  # it begins all other texts with BOS
        tokenizer.chat_template = CHAT_TEMPLATE.removeprefix("<s>")
        shutil.copytree(of_chats, tmp_path, dirs_exist_ok=True)
        tokenizer.save_pretrained(tmp_path)
        model = AutoModelForSequenceClassification.from_pretrained(of_chats).eval()
        answers = [{"role": "assistant", "content": text} for text in ("a cat", "a dog")]
        chats = [[*chat, answer] for chat, answer in zip(CHATS, answers, strict=True)]
        with torch.no_grad():
            ids = [tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True) for chat in chats]
            expected = [float(model(**one).logits) for one in ids]
        found = self.scores(rewards.load("preference", model=tmp_path))
        assert found == pytest.approx(expected, abs=1e-5)
        assert found != pytest.approx(self.scores(rewards.load("preference", model=of_chats)), abs=1e-3)

    def test_references_are_answers_too(self, of_chats):
        plain, less = (rewards.load("preference", model=of_chats, minus_reference=less) for less in (False, True))
        expected = self.scores(plain) - self.scores(plain, completions=["r", "s"])
        assert self.scores(less) == pytest.approx(expected, abs=1e-5)
        assert self.scores(less, chats=CHATS[::-1])[0] != pytest.approx(expected[0], abs=1e-4)

    def test_texts_are_laid_out(self, of_chats):
        texts = [raw(of_chats, text) for text in ("pa cat", "qa dog")]
        as_chat = raw(of_chats, "[user]who[assistant]a cat.")
        reward = rewards.load("preference", model=of_chats)
        assert self.scores(reward, chats=[CHATS[0], None]) == pytest.approx([as_chat, texts[1]], abs=1e-5)
        for settings in ({"chat": False}, {"template": "{prompt}{completion}"}):
            reward = rewards.load("preference", model=of_chats, **settings)
            assert self.scores(reward) == pytest.approx(texts, abs=1e-5)

    def test_a_model_that_was_trained_on_texts_reads_texts(self, of_chats, tmp_path):
        for path in of_chats.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "reward_model.json").write_text(json.dumps({"template": "{prompt}{completion}", "max_length": 64}))
        found = self.scores(rewards.load("preference", model=tmp_path))
        assert found == pytest.approx([raw(of_chats, text) for text in ("pa cat", "qa dog")], abs=1e-5)
        assert self.scores(rewards.load("preference", model=tmp_path, chat=True)) != pytest.approx(found, abs=1e-3)

    def test_what_cannot_be_read_so(self, of_chats, folder):
        with pytest.raises(ValueError, match="template is for texts and chat=True for the chat template"):
            rewards.load("preference", model=of_chats, chat=True, template="{completion}")
        with pytest.raises(ValueError, match=r"the tokenizer of '.*' has no chat template for chat=True"):
            self.scores(rewards.load("preference", model=folder, chat=True))


@pytest.mark.parametrize(
    "template", ["{prompt}", "{completion} {title}", "{}{completion}", "{completion", "{prompt.x}{completion}", 3, ""]
)
def test_other_templates_are_refused(folder, template):
    with pytest.raises(
        ValueError, match=r"template must be a format of \{prompt\} and \{completion\} and nothing else"
    ):
        rewards.load("preference", model=folder, template=template)


def test_separate_tokenizer(folder, tmp_path):
    tiny_models.tokenizer("none", pad_token="<pad>", bos_token="<s>").save_pretrained(tmp_path)
    bare = rewards.load("preference", model=folder, tokenizer=tmp_path)
    plain = rewards.load("preference", model=folder)
    around = rewards.load("preference", model=folder, tokenizer=tmp_path, template="<s>{prompt}{completion}</s>")
    assert score(around, ["a"]) == pytest.approx(score(plain, ["a"]), abs=1e-5)
    assert abs(score(bare, ["a"])[0] - score(plain, ["a"])[0]) > 1e-3


def test_larger_tokenizer_is_refused(tmp_path):
    highest = max(tiny_models.tokenizer()("pa dog")["input_ids"])
    small = tiny_models.classifier(tmp_path, vocab_size=highest)
    with pytest.raises(
        ValueError, match=rf"the tokenizer gives the id {highest} and the model has {highest} embeddings"
    ):
        score(rewards.load("preference", model=small), ["a dog"])


def test_untrained_and_other_models_are_refused(tmp_path, folder):
    three = tiny_models.classifier(tmp_path / "three", num_labels=3)
    with pytest.raises(ValueError, match=r"is no trained reward model: it has 3 outputs, not one"):
        score(rewards.load("preference", model=three), ["a"])
    headless = tiny_models.language_model(tmp_path / "headless")
    with pytest.raises(ValueError, match=r"is no trained reward model: it lacks score.weight"):
        score(rewards.load("preference", model=headless), ["a"])
    with pytest.raises(ValueError, match="preference has no model; pass model=NAME or FOLDER of a reward model"):
        rewards.load("preference")
    with pytest.raises(ValueError, match=r"no reward model in .*: it has no config.json or adapter_config.json"):
        rewards.load("preference", model=tmp_path)
    with pytest.raises(ValueError, match=r"base is for an adapter, and .* is a whole model"):
        rewards.load("preference", model=folder, base=object())


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_folder_without_tokenizer_is_refused(tmp_path, family):
    # For BERT, transformers makes one in which every word is unknown.
    tiny_models.made("AutoModelForSequenceClassification", family, num_labels=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no tokenizer; save|no tokenizer could be loaded from"):
        score(rewards.load("preference", model=tmp_path), ["a"])


def test_model_is_loaded_once_without_random_numbers(folder):
    before = torch.get_rng_state()
    first, second = (rewards.load("preference", model=folder) for _ in range(2))
    assert first.classifier is second.classifier
    assert first([], [], [], []).shape == (0,)
    assert torch.equal(torch.get_rng_state(), before)


# Adapters


HEADS = ("score", "classification_head")
FAMILIES = {
    "gpt2": {"target_modules": ["c_attn"], "fan_in_fan_out": True},
    "llama": {"target_modules": ["q_proj", "v_proj"]},
    "t5": {"target_modules": ["q", "v"], "modules_to_save": ["classification_head"]},
}


@pytest.fixture(params=FAMILIES)
def adapter(request, tmp_path):
    """Return the folders of a language model and of a reward adapter on it, saved by their libraries."""
    return make_adapter(tmp_path, request.param)


def make_adapter(folder, family, **settings):
    layout, tokens = ("eos", {"pad_token": "<pad>"}) if family == "t5" else ("none", {})
    base = tiny_models.language_model(folder / "base", family, layout=layout, tokens=tokens, tie_word_embeddings=False)
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    tiny_models.sharp(torch.nn.ModuleList(child for name, child in model.named_children() if name in HEADS))
    adapted = tiny_models.adapted(model, **{"task_type": "SEQ_CLS"} | FAMILIES[family] | settings)
    adapted.save_pretrained(folder / "adapter")
    tiny_models.tokenizer(layout, **tokens or GPT2_TOKENS).save_pretrained(folder / "adapter")
    text = AutoTokenizer.from_pretrained(folder / "adapter")("pa dog", return_tensors="pt")
    with torch.no_grad():
        expected = float(adapted(**text).logits)
    return base, folder / "adapter", expected


def language_model(folder, **settings):
    is_t5 = json.loads((folder / "config.json").read_text())["model_type"] == "t5"
    return (AutoModelForSeq2SeqLM if is_t5 else AutoModelForCausalLM).from_pretrained(folder, **settings).eval()


def storages(*models):
    """Return the bytes of each storage of the models' weights."""
    tensors = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}


def test_adapter_is_loaded_on_its_base(adapter):
    _, folder, expected = adapter
    reward = rewards.load("preference", model=folder)
    assert score(reward, ["a dog"])[0] == pytest.approx(expected, abs=1e-5)
    check_independence(reward, ["a dog", "", "x" * 99, "cats and dogs", "ab </s> c"])


def test_adapter_on_a_base_in_memory(adapter):
    folder_of_base, folder, expected = adapter
    base = language_model(folder_of_base)
    before = {name: (weight.clone(), weight.requires_grad) for name, weight in base.named_parameters()}
    shared, loaded = rewards.load("preference", model=folder, base=base), rewards.load("preference", model=folder)
    completions = ["a dog", "", "x" * 99, "cats and dogs"]
    np.testing.assert_allclose(score(shared, completions), score(loaded, completions), atol=1e-6)
    assert score(shared, ["a dog"])[0] == pytest.approx(expected, abs=1e-5)

    alone, together = storages(base), storages(base, shared.classifier.model)
    own = sum(together.values()) - sum(alone.values())
    trained = sum(
        w.numel() for n, w in shared.classifier.model.named_parameters() if "lora_" in n or "modules_to_save" in n
    )
    head = sum(w.numel() for n, w in shared.classifier.model.named_parameters() if "original_module" in n)
    assert own <= 4 * (trained + head) < sum(alone.values()) / 4
    assert sum(storages(base, loaded.classifier.model).values()) > 1.5 * sum(
        alone.values()
    )  # so that copies would be detected
    weights = dict(base.base_model.named_parameters())
    of_shared = {
        name.removeprefix(shared.classifier.model.get_base_model().base_model_prefix + ".").replace(
            "base_layer.", ""
        ): weight
        for name, weight in shared.classifier.model.get_base_model().named_parameters()
    }
    common = weights.keys() & of_shared.keys()
    assert len(common) > len(weights) - 3  # a classifier has no lm_head of T5
    assert all(weights[name].data_ptr() == of_shared[name].data_ptr() for name in common)
    for name, weight in base.named_parameters():
        assert torch.equal(weight, before[name][0])
        assert weight.requires_grad == before[name][1]


def test_shared_base_keeps_its_dtype(tmp_path):
    folder_of_base, folder, expected = make_adapter(tmp_path, "llama")
    base = language_model(folder_of_base, dtype=torch.bfloat16)
    shared = rewards.load("preference", model=folder, base=base)
    assert score(shared, ["a dog"])[0] == pytest.approx(expected, abs=0.3)
    assert {weight.dtype for weight in shared.classifier.model.get_base_model().model.embed_tokens.parameters()} == {
        base.dtype
    }


def test_other_base_is_refused(tmp_path):
    _, folder, _ = make_adapter(tmp_path, "gpt2")
    wide = tiny_models.made("AutoModelForCausalLM", "gpt2", n_embd=64)
    with pytest.raises(ValueError, match=r"the adapter in .* does not fit its base: .*size mismatch"):
        score(rewards.load("preference", model=folder, base=wide), ["a"])
    llama = tiny_models.made("AutoModelForCausalLM", "llama")
    with pytest.raises(ValueError, match=r"the adapter in .* does not fit its base: No modules were targeted"):
        score(rewards.load("preference", model=folder, base=llama), ["a"])
    adapted = tiny_models.adapted(llama, target_modules=["q_proj"])
    with pytest.raises(ValueError, match=r"base must be a plain model of transformers, not quantised, got a PeftModel"):
        score(rewards.load("preference", model=folder, base=adapted), ["a"])
    with pytest.raises(ValueError, match=r"a LlamaForCausalLM, do not fit .*: it lacks .*q_proj.weight"):
        classifier_on(adapted.get_base_model())  # with layers of an adapter


def test_adapter_without_head_is_refused(tmp_path):
    folder_of_base, folder, _ = make_adapter(tmp_path, "llama", task_type=None)
    for settings in ({}, {"base": language_model(folder_of_base)}):
        with pytest.raises(ValueError, match=r"both lack score.weight; .* head in modules_to_save"):
            score(rewards.load("preference", model=folder, **settings), ["a"])


def test_adapter_without_base_is_refused(tmp_path):
    _, folder, _ = make_adapter(tmp_path, "llama")
    config = json.loads((folder / "adapter_config.json").read_text())
    for name, message in ((None, "does not say what model it belongs to"), (str(tmp_path / "x"), "which is missing")):
        (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": name}))
        with pytest.raises(ValueError, match=message):
            score(rewards.load("preference", model=folder), ["a"])


def test_adapter_without_all_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder_of_base, folder, _ = make_adapter(tmp_path, "llama")
    weights = load_file(folder / "adapter_model.safetensors")
    del weights[next(name for name in weights if "lora_B" in name)]
    save_file(weights, folder / "adapter_model.safetensors")
    for settings in ({}, {"base": language_model(folder_of_base)}):
        with pytest.raises(ValueError, match=r"does not fit its base: Found missing adapter keys.*lora_B"):
            score(rewards.load("preference", model=folder, **settings), ["a"])


def test_adapter_on_a_classifier_has_its_own_head(tmp_path):
    base = tiny_models.classifier(tmp_path / "base", "llama", num_labels=3, layout="none", tokens={})
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, ignore_mismatched_sizes=True)
    adapted = tiny_models.adapted(model, task_type="SEQ_CLS", **FAMILIES["llama"])
    adapted.save_pretrained(tmp_path / "adapter")
    text = AutoTokenizer.from_pretrained(base)("pa dog", return_tensors="pt")
    with torch.no_grad():
        expected = float(adapted(**text).logits)
    reward = rewards.load("preference", model=tmp_path / "adapter")  # without a tokenizer, that of the base
    assert score(reward, ["a dog"])[0] == pytest.approx(expected, abs=1e-5)


def test_adapter_is_downloaded_from_the_hub(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    from tril_gym.rewards.neural.adapters import download_adapter

    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file: asked.append((name, file)))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name: str(tmp_path / name))
    assert download_adapter("owner/adapter") == str(tmp_path / "owner/adapter")
    assert asked == [("owner/adapter", "adapter_config.json")]
    assert download_adapter(str(tmp_path)) == str(tmp_path)  # a folder is not copied

    def offline(name, file):
        raise OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    assert download_adapter("owner/model") == "owner/model"
