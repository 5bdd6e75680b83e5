import math

import numpy as np
import pytest
import tiny_models
import torch
from text_doubles import TOKENIZERS, encoded
from tiny_models import BOS, EOS, PAD, check_independence, score
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from tril_gym import rewards
from tril_gym.models.language_model import LanguageModel
from tril_gym.models.texts import Texts
from tril_gym.rewards.neural.language_model import windows
from tril_gym.utils.text_codec import TextCodec

FAMILIES = {
    "gpt2": ("none", {}),  # no BOS, no padding, as GPT-2's tokenizer
    "llama": ("bos", {"bos_token": "<s>"}),
    "t5": ("eos", {"pad_token": "<pad>"}),
    "bart": ("both", {"pad_token": "<pad>", "bos_token": "<s>", "cls_token": "<s>", "sep_token": "</s>"}),
}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    layout, tokens = FAMILIES[request.param]
    where = tmp_path_factory.mktemp(request.param)
    return tiny_models.language_model(where, request.param, layout=layout, tokens=tokens, max_length=64)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return tiny_models.language_model(tmp_path_factory.mktemp("gpt2"))


def slow_nats(folder, prompt, text):
    """Return the nats of a text's tokens, each by a forward pass over all tokens before it."""
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def ids_of(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    costs = []
    if config.is_encoder_decoder:
        model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
        begun, tokens = [PAD if config.model_type == "t5" else EOS], ids_of(text)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        opens = [BOS] if config.model_type == "llama" else []
        begun, tokens = opens + ids_of(prompt), ids_of(f" {text}" if prompt and text else text)
        begun = begun or [EOS]  # GPT-2 has one token for BOS and EOS
    for token in tokens or [EOS]:
        with torch.no_grad():
            if config.is_encoder_decoder:
                inputs = tokenizer(prompt, return_tensors="pt") | {"decoder_input_ids": torch.tensor([begun])}
            else:
                inputs = {"input_ids": torch.tensor([begun])}
            costs.append(-float(model(**inputs).logits[0, -1].double().log_softmax(-1)[token]))
        begun = [*begun, token]
    return costs


@pytest.mark.parametrize("prompt", ["a dog", ""])
@pytest.mark.parametrize("text", ["runs home", "\N{DOG FACE}", ""])
def test_equals_one_forward_pass_per_token(folder, prompt, text):
    costs = slow_nats(folder, prompt, text)
    log = rewards.load("output_perplexity", model=folder, log=True)
    assert score(log, [text], prompts=[prompt])[0] == pytest.approx(np.mean(costs), rel=1e-5)
    plain = rewards.load("output_perplexity", model=folder)
    assert score(plain, [text], prompts=[prompt])[0] == pytest.approx(math.exp(np.mean(costs)), rel=1e-4)
    assert np.mean(costs) > 0.5  # so that a missing token would be detected


def test_a_forced_bos_is_before_the_text(tmp_path):
    """As BART is trained, and as a policy writes and scores a completion."""
    layout, tokens = FAMILIES["bart"]
    where = tiny_models.language_model(tmp_path, "bart", layout=layout, tokens=tokens)
    settings = GenerationConfig.from_pretrained(where)
    settings.forced_bos_token_id = BOS
    settings.save_pretrained(where)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(where), AutoTokenizer.from_pretrained(where)
    prompt, text = tokenizer("a dog")["input_ids"], tokenizer("runs", add_special_tokens=False)["input_ids"]
    texts = Texts.from_ids([prompt], [text], max_new_tokens=len(text))
    nats = -float(LanguageModel(model, tokenizer).token_logprobs(texts).logprobs.detach().sum())
    log, pooled = rewards.load("output_perplexity", model=where, log=True), rewards.load("perplexity", model=where)
    assert score(log, ["runs"], prompts=["a dog"])[0] == pytest.approx(nats / len(text), rel=1e-5)
    assert pooled.statistics(["a dog"], [""], [["runs"]], [{}])[0] == pytest.approx([nats, len(text)], rel=1e-5)
    assert abs(np.sum(slow_nats(where, "a dog", "runs")) - nats) > 1e-2  # behind the start token alone


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_text_is_read_in_the_tokens_that_a_policy_writes(tmp_path, name):
    """Behind a prompt one space, whether or not the tokenizer puts a word mark before every text; and without one."""
    tokenizer = TOKENIZERS[name]()
    model = tiny_models.made("AutoModelForCausalLM", "llama", vocab_size=len(tokenizer))
    where = tiny_models.saved(tmp_path, model, tokenizer)
    log, codec = rewards.load("output_perplexity", model=where, log=True), TextCodec(tokenizer)
    before = tokenizer("")["input_ids"][:1]

    def nats(prompt, text):
        ids = [*before, *encoded(tokenizer, prompt)] or [tokenizer.eos_token_id]
        texts = Texts.from_ids([ids], [text], max_new_tokens=len(text))
        return float(LanguageModel(model, tokenizer).token_logprobs(texts).logprobs.detach().mean()) * -1

    written = codec.ids(" the dog")
    found = score(log, ["the dog", " the dog", " the dog"], prompts=["concepts:", "concepts:", ""])
    expected = [nats("concepts:", written)] * 2 + [nats("", written)]
    assert found == pytest.approx(expected, rel=1e-5)
    assert score(log, ["g"], prompts=["the do\n"])[0] == pytest.approx(nats("the do\n", codec.ids("g")), rel=1e-5)


def test_of_long_prompts_the_end_is_read(folder):
    """As many tokens as model or tokenizer read."""
    log = rewards.load("output_perplexity", model=folder, log=True)
    assert log.language_model.length(None) == 64
    text = "runs" if log.language_model.is_seq2seq else "r" * 33  # windows of a causal model keep half of them
    first, other, changed = score(log, [text] * 3, prompts=["a" + "x" * 99, "b" + "x" * 99, "a" + "y" * 99])
    assert first == pytest.approx(other, rel=1e-6)
    assert abs(first - changed) > 1e-3


def test_without_the_prompt(folder):
    alone = rewards.load("output_perplexity", model=folder, with_prompt=False, log=True)
    found = score(alone, ["runs", "runs"], prompts=["a dog", "cats"])
    assert found == pytest.approx([np.mean(slow_nats(folder, "", "runs"))] * 2, rel=1e-5)
    behind = score(rewards.load("output_perplexity", model=folder, log=True), ["runs", "runs"], prompts=["a dog", "c"])
    assert abs(behind[0] - behind[1]) > 1e-3


def test_scores_do_not_depend_on_the_batch(folder):
    completions = [text[:300] for text in tiny_models.ODD] + ["the plot", "a cat sits on the mat"]  # of five windows
    prompts = ["", "a", "\N{DOG FACE}", "y" * 300][:4] * 3
    log = rewards.load("output_perplexity", model=folder, batch_size=5, log=True)
    check_independence(log, completions, prompts=prompts)


def test_windows():
    # Everything fits: one window, with scores from id 3 on.
    assert windows(8, 3, 8) == [(0, 8, 3)]
    # Windows of 4 ids, in steps of 2: ids 1-3 after all before them; then 4 and 5 after 2 and 3; then 6 after 3 to 5.
    assert windows(7, 1, 4) == [(0, 4, 1), (2, 6, 2), (3, 7, 3)]
    # A long context is truncated at the beginning.
    assert windows(10, 9, 4) == [(6, 10, 3)]
    assert windows(10, 6, 4) == [(4, 8, 2), (6, 10, 2)]
    assert windows(5, 5, 4) == []


@pytest.mark.parametrize("size", [2, 3, 8, 65])
def test_windows_score_each_id_once_after_half_a_window(size):
    for length in range(1, 40):
        for first in range(1, length + 1):
            found = windows(length, first, size)
            scored = [begin + place for begin, end, start in found for place in range(start, end - begin)]
            assert scored == list(range(first, length))
            assert all(end - begin <= size for begin, end, _ in found)
            assert all(start >= min(size - size // 2, begin + start) for begin, _, start in found)


def test_long_texts_are_read_through_windows(gpt2):
    text = "a dog runs after the ball and back"  # 34 tokens, after EOS
    log = rewards.load("output_perplexity", model=gpt2, max_length=9, with_prompt=False, log=True)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(gpt2).eval(), AutoTokenizer.from_pretrained(gpt2)
    ids = [EOS, *tokenizer(text)["input_ids"]]
    nats = 0.0
    for begin, end, first in windows(len(ids), 1, 10):
        with torch.no_grad():
            logits = model(torch.tensor([ids[begin : end - 1]])).logits[0].double().log_softmax(-1)
        nats -= sum(float(logits[place - 1, ids[begin + place]]) for place in range(first, end - begin))
    (found,) = score(log, [text])
    assert found == pytest.approx(nats / 34, rel=1e-5)
    whole = rewards.load("output_perplexity", model=gpt2, with_prompt=False, log=True)
    assert abs(found - score(whole, [text])[0]) > 1e-3


def test_joiner(gpt2):
    log = rewards.load("output_perplexity", model=gpt2, log=True)
    plain, spaced = score(log, ["runs", " runs"], prompts=["a dog"] * 2)
    assert plain == pytest.approx(spaced, rel=1e-6)
    none = rewards.load("output_perplexity", model=gpt2, log=True, joiner="")
    assert abs(score(none, ["runs"], prompts=["a dog"])[0] - plain) > 1e-3
    chat = ["a dog\n"]  # as chat templates end
    assert score(log, ["runs"], prompts=chat) == pytest.approx(score(none, ["runs"], prompts=chat), rel=1e-6)


def test_a_prompt_that_begins_with_bos_has_one(tmp_path):
    """As chat templates write it (Llama 3)."""
    where = tiny_models.language_model(tmp_path, "llama", layout="bos", tokens={"bos_token": "<s>"})
    log = rewards.load("output_perplexity", model=where, log=True)
    found = score(log, ["runs"] * 3, prompts=["a dog", "<s>a dog", "<s><s>a dog"])
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert abs(found[2] - found[0]) > 1e-3


def test_perplexity_of_references(folder):
    reward = rewards.load("perplexity", model=folder)
    prompts, references = ["a dog", "cats", "x"], [["runs", "sits down"], ["sleep"], []]
    columns = prompts, ["ignored", "", "other"], references, [{}] * 3
    costs = [[slow_nats(folder, p, t) for t in targets] for p, targets in zip(prompts, references, strict=True)]
    sums = [[sum(map(sum, of_text)), sum(map(len, of_text))] for of_text in costs]
    np.testing.assert_allclose(reward.statistics(*columns), sums, rtol=1e-5)
    nats, tokens = np.sum(sums, axis=0)
    assert tokens == (
        len(" runs sits down sleep") - (3 if AutoConfig.from_pretrained(folder).is_encoder_decoder else 0)
    )
    assert reward.corpus(*columns) == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert isinstance(reward, rewards.PooledScore)
    assert not isinstance(reward, rewards.Score)


def test_uniform_model_has_the_perplexity_of_its_vocabulary(tmp_path):
    # All weights 0: each of the V words has the same probability, 1/V, so the perplexity is V.
    flat = tiny_models.made("AutoModelForCausalLM", "gpt2")
    for weight in flat.parameters():
        weight.data.zero_()
    tiny_models.saved(tmp_path, flat, tiny_models.tokenizer())
    found = score(rewards.load("output_perplexity", model=tmp_path), ["a dog", "", "x" * 500])
    assert found == pytest.approx([tiny_models.V] * 3, rel=1e-6)


def test_missing_references_are_refused(gpt2):
    perplexity = rewards.load("perplexity", model=gpt2)
    with pytest.raises(ValueError, match="no text has any; use data with references"):
        perplexity.corpus(["p"], ["c"], [[]], [{}])
    assert perplexity.statistics([], [], [], []).shape == (0, 2)
    assert rewards.load("output_perplexity", model=gpt2)([], [], [], []).shape == (0,)


def test_masked_language_models_are_refused(tmp_path):
    tiny_models.classifier(tmp_path)
    with pytest.raises(ValueError, match="is a bert model, which reads texts in both directions"):
        score(rewards.load("output_perplexity", model=tmp_path), ["a"])


def test_untrained_models_are_refused(tmp_path):
    model = tiny_models.made("AutoModel", "llama", tie_word_embeddings=False)
    tiny_models.saved(tmp_path, model, tiny_models.tokenizer())
    with pytest.raises(ValueError, match=r"is no trained language model: it lacks lm_head.weight"):
        score(rewards.load("output_perplexity", model=tmp_path), ["a"])


def test_adapter_is_loaded_on_its_base(gpt2, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(gpt2)
    adapted = tiny_models.adapted(base, target_modules=["c_fc"], fan_in_fan_out=True)
    adapted.save_pretrained(tmp_path)
    log = rewards.load("output_perplexity", model=tmp_path, log=True)
    ids = AutoTokenizer.from_pretrained(gpt2)("p a dog", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = adapted(ids).logits[0].log_softmax(-1)
    costs = [-float(logits[place - 1, ids[0, place]]) for place in range(1, 7)]
    assert score(log, ["a dog"])[0] == pytest.approx(np.mean(costs), rel=1e-5)
    assert abs(score(rewards.load("output_perplexity", model=gpt2, log=True), ["a dog"])[0] - np.mean(costs)) > 1e-3


def test_model_is_loaded_once_without_random_numbers(gpt2):
    before = torch.get_rng_state()
    first, second = (rewards.load("output_perplexity", model=gpt2) for _ in range(2))
    assert first.language_model is second.language_model
    assert first.language_model is rewards.load("perplexity", model=str(gpt2)).language_model
    half = rewards.load("output_perplexity", model=gpt2, dtype="bfloat16", log=True)
    assert half.language_model is not first.language_model
    exact = score(rewards.load("output_perplexity", model=gpt2, log=True), ["a dog"])[0]
    assert score(half, ["a dog"])[0] == pytest.approx(exact, rel=0.1)
    assert score(half, ["a dog"])[0] != exact
    assert torch.equal(torch.get_rng_state(), before)


def test_invalid_settings_are_refused(gpt2, tmp_path):
    for name in ("output_perplexity", "perplexity"):
        with pytest.raises(ValueError, match=rf"{name} has no model; pass model=NAME or FOLDER of a causal or"):
            rewards.load(name)
        with pytest.raises(ValueError, match=r"no causal or .* in .*: it has no config.json or adapter_config.json"):
            rewards.load(name, model=tmp_path)
        with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, got 0"):
            rewards.load(name, model=gpt2, batch_size=0)
    for bad in (1, 65):
        with pytest.raises(ValueError, match=rf"max_length must be in \[2, 64\] for this model, got {bad}"):
            score(rewards.load("output_perplexity", model=gpt2, max_length=bad), ["a"])
