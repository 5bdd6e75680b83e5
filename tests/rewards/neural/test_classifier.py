import numpy as np
import pytest
import tiny_models
import torch

from tril_gym import rewards
from tril_gym.rewards.neural.pretrained import batches_by_length
from tril_gym.rewards.neural.sequence_classifier import Classifier

FAMILIES = {
    "bert": ("both", tiny_models.BERT_TOKENS, {}),
    "roberta": ("both", tiny_models.BERT_TOKENS, {}),
    "gpt2": ("none", {}, {"pad_token_id": None}),
    "llama": ("bos", {"bos_token": "<s>"}, {"pad_token_id": None}),
    "t5": ("eos", {"pad_token": "<pad>"}, {}),
}
LABELS = {0: "anger", 1: "joy", 2: "fear"}


@pytest.fixture(scope="module", params=FAMILIES)
def of_three(request, tmp_path_factory):
    """Return a classifier with three labels, none of which is named positive."""
    layout, tokens, settings = FAMILIES[request.param]
    folder, settings = tmp_path_factory.mktemp(request.param), {"id2label": LABELS} | settings
    return tiny_models.classifier(folder, request.param, num_labels=3, layout=layout, tokens=tokens, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a sentiment classifier."""
    labels = {0: "NEGATIVE", 1: "POSITIVE"}
    return tiny_models.classifier(tmp_path_factory.mktemp("sentiment"), num_labels=2, id2label=labels)


def raw(folder, text):
    """Return the model's logits for one text, (C,)."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")).logits[0].double()


def test_each_label_of_each_family(of_three):
    texts = ["a dog", "cats </s>", "the end </s>"]  # in one batch, though texts may end with EOS and have no padding
    logits = torch.stack([raw(of_three, f"p {text}") for text in texts])
    for column, label in ((0, "anger"), (1, "JOY"), (2, 2)):
        for output, expected in (("logit", logits), ("probability", logits.softmax(-1))):
            reward = rewards.load("classifier", model=of_three, label=label, output=output)
            assert tiny_models.score(reward, texts) == pytest.approx(expected[:, column].numpy(), abs=1e-5)
    assert abs(float(logits[0, 0] - logits[1, 0])) > 1e-3


@pytest.mark.parametrize("batch_size", [64, 3])
def test_scores_do_not_depend_on_the_batch(of_three, batch_size):
    reward = rewards.load("classifier", model=of_three, label=0, output="logit", batch_size=batch_size)
    tiny_models.check_independence(reward, [*tiny_models.ODD, "the plot", "a cat sits on the mat"])


@pytest.mark.parametrize(("layout", "puts_bos"), [("bos", True), ("none", False)])
def test_a_text_that_begins_with_bos_gets_no_second_one(tmp_path, layout, puts_bos):
    """Rendered chats of Llama 3 begin with it, and its tokenizer puts it before every text."""
    llama = tiny_models.classifier(tmp_path, "llama", layout=layout, tokens={"bos_token": "<s>"}, pad_token_id=None)
    plain, rendered, twice = raw(llama, "a dog"), raw(llama, "<s>a dog"), raw(llama, "<s><s>a dog")
    expected = [plain, plain, rendered] if puts_bos else [plain, rendered, twice]
    reward = rewards.load("preference", model=llama)
    scores = tiny_models.score(reward, ["a dog", "<s>a dog", "<s><s>a dog"], prompts=[""] * 3)
    assert scores == pytest.approx([float(logits[0]) for logits in expected], abs=1e-5)
    assert len(set(scores.round(3))) == 3 - puts_bos


def test_classifier_reads_the_chosen_text(of_three):
    reward = rewards.load("classifier", model=of_three, label=0, output="logit", with_prompt=False)
    assert tiny_models.score(reward, [" a dog\n"]) == pytest.approx([float(raw(of_three, "a dog")[0])], abs=1e-5)
    short = rewards.load("classifier", model=of_three, label=0, output="logit", max_length=8)
    first, second, other = tiny_models.score(short, ["5 ends"] * 2 + ["5 Ends"], prompts=["abcdef", "abdcef", "abcdef"])
    assert first == pytest.approx(second, abs=1e-5)  # long texts are truncated at the beginning
    assert abs(first - other) > 1e-4


def test_label_is_required_unless_one_is_positive(of_three, folder):
    with pytest.raises(ValueError, match=r"classifier needs label=.*no label of .* is called positive.*1: 'joy'"):
        tiny_models.score(rewards.load("classifier", model=of_three), ["a"])
    with pytest.raises(ValueError, match=r"no label 'sad'; its labels are"):
        tiny_models.score(rewards.load("classifier", model=of_three, label="sad"), ["a"])
    positive, named = rewards.load("classifier", model=folder), rewards.load("sentiment", model=folder)
    assert tiny_models.score(positive, ["great"]).tolist() == tiny_models.score(named, ["great"]).tolist()


def test_invalid_settings_are_refused(folder, tmp_path):
    for settings, message in (
        ({}, r"classifier has no model; pass model=NAME or FOLDER of a sequence classifier"),
        ({"model": tmp_path}, r"no sequence classifier in .*: it has no config.json"),
        ({"model": folder, "output": "logits"}, "output must be one of probability, logit, got 'logits'"),
        ({"model": folder, "dtype": "half"}, r"dtype must be one of float32, bfloat16, float16, got 'half'"),
    ):
        with pytest.raises(ValueError, match=message):
            rewards.load("classifier", **settings)


def test_model_is_loaded_once_until_its_folder_changes(tmp_path):
    folder = tiny_models.classifier(tmp_path)
    first, second = (rewards.load("classifier", model=folder) for _ in range(2))
    before = tiny_models.score(first, ["a"])
    assert first.classifier is second.classifier
    assert rewards.load("classifier", model=folder, dtype="bfloat16").classifier is not first.classifier
    tiny_models.classifier(tmp_path, seed=1)
    third = rewards.load("classifier", model=folder)
    assert third.classifier is not first.classifier
    assert tiny_models.score(first, ["a"]).tolist() == before.tolist()  # an existing score does not change
    assert tiny_models.score(third, ["a"]).tolist() != before.tolist()


def test_model_and_tokenizer_with_different_padding(tmp_path):
    # The model was trained to be read at its last token that is not 7, a dollar sign; the tokenizer pads with 0.
    tokens = {"pad_token": "<pad>"}
    folder = tiny_models.classifier(tmp_path, "gpt2", layout="none", tokens=tokens, pad_token_id=7)
    reward, texts = rewards.load("classifier", model=folder, output="logit"), ["a", "a longer text", "5$"]
    expected = [float(raw(folder, f"p {text}")[0]) for text in texts]
    assert tiny_models.score(reward, texts) == pytest.approx(expected, abs=1e-5)


def test_positions_of_roberta_start_after_padding(tmp_path):
    settings = {"pad_token_id": 1, "bos_token_id": 0, "max_position_embeddings": 66}
    folder = tiny_models.classifier(tmp_path, "roberta", **settings)
    reward = rewards.load("classifier", model=folder)
    reward.classifier.tokenizer.model_max_length = 10**30  # not set
    assert reward.classifier.length(None) == 64
    assert np.isfinite(tiny_models.score(reward, ["x" * 500])).all()


def test_batches_have_similar_lengths_and_one_group():
    assert list(batches_by_length([5, 1, 4, 1, 9], 2)) == [[1, 3], [2, 0], [4]]
    assert list(batches_by_length([5, 1, 4, 1, 9], 2, [0, 0, 1, 1, 0])) == [[1, 0], [4], [3, 2]]
    assert list(batches_by_length([], 2)) == []


def test_decoder_without_padding_token():
    from transformers import GPT2Config, GPT2ForSequenceClassification

    tokenizer = tiny_models.tokenizer("none")  # as GPT-2's: no special tokens around a text, and no padding token
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=64, initializer_range=0.5
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = Classifier(GPT2ForSequenceClassification(config), tokenizer)
    texts = ["great", "", "awful and boring and dreadful", "the plot " * 100]
    together = classifier.probabilities(texts, max_length=classifier.length(None), batch_size=4)
    alone = [classifier.probabilities([text], max_length=64, batch_size=1)[0] for text in texts]
    assert together == pytest.approx(np.stack(alone), abs=1e-5)
    assert len({round(float(row[1]), 4) for row in together}) == 4


def test_labels_that_may_hold_together_have_probabilities_of_their_own(tmp_path):
    folder = tiny_models.classifier(tmp_path, num_labels=3, problem_type="multi_label_classification")
    found = [rewards.load("classifier", model=folder, label=label) for label in range(3)]
    expected = raw(folder, "p a dog").sigmoid().tolist()
    assert [tiny_models.score(reward, ["a dog"])[0] for reward in found] == pytest.approx(expected, abs=1e-6)


def test_single_output_is_a_probability():
    from transformers import BertConfig, BertForSequenceClassification

    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng(devices=[]):
        model = BertForSequenceClassification(BertConfig(vocab_size=400, num_labels=1, **tiny))
    model.classifier.weight.data.zero_()
    model.classifier.bias.data.fill_(np.log(3.0))  # sigmoid(log 3) = 3/4; a softmax over one output would be 1
    classifier = Classifier(model, tiny_models.tokenizer("both", **tiny_models.BERT_TOKENS))
    assert classifier.column(None) == 0
    assert classifier.probabilities(["great"], max_length=8, batch_size=1)[0] == pytest.approx([0.75])
