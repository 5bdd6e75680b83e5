import gzip
import importlib.util
import json
import math

import numpy as np
import paths
import pytest
import tiny_models
import torch
from tiny_models import check_independence, score
from transformers import AutoModel, AutoTokenizer, GPT2Tokenizer

from tril_gym import rewards
from tril_gym.rewards.neural.bert_score import Embedded, Encoder, match

DATA = paths.DATA
DEPTH = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a BERT of three layers, with a classifier's head that is ignored."""
    return tiny_models.classifier(tmp_path_factory.mktemp("bert"), num_hidden_layers=DEPTH + 1)


def load(folder, **settings):
    return rewards.load("bert_score", model=folder, **{"layer": DEPTH} | settings)


def embedded(*rows, counts=None):
    directions = torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)
    return Embedded(directions, torch.tensor(counts if counts else [True] * len(rows)))


def test_match_by_hand():
    # Unit vectors in the plane: completion 0° and 90°, reference 0° and 60° and 0°.
    #   cos   0°   60°      0°
    #   0°    1    1/2      1    best 1
    #   90°   0    √3/2     0    best √3/2
    # P = (1 + √3/2) / 2.  R: the columns' best are 1, √3/2, 1.
    half, tall = 0.5, math.sqrt(3) / 2
    completion, target = embedded([1, 0], [0, 1]), embedded([1, 0], [half, tall], [1, 0])
    precision, recall = (1 + tall) / 2, (2 + tall) / 3
    f1 = 2 * precision * recall / (precision + recall)
    assert match(completion, target) == pytest.approx((precision, recall, f1))
    assert match(target, completion) == pytest.approx((recall, precision, f1))


def test_special_tokens_are_matched_but_not_counted():
    # The first token of each text is special. The best match of 90°, 1, is the other's special token; of 0° it is √2/2.
    completion = embedded([1, 1], [0, 1], [1, 0], counts=[False, True, True])
    target = embedded([0, 1], [1, 1], counts=[False, True])
    precision = (1 + math.sqrt(0.5)) / 2
    assert match(completion, target) == pytest.approx((precision, 1.0, 2 * precision / (precision + 1)))


def test_f1_of_orthogonal_texts_is_zero():
    assert match(embedded([1, 0]), embedded([-1, 0])) == (-1.0, -1.0, 0.0)
    assert match(embedded([1, 0]), embedded([1, 0], counts=[False])) == (0.0, 0.0, 0.0)


def slow(folder, completion, target, layer=DEPTH):
    """Precision and recall, one pair of tokens at a time."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def vectors(text):
        ids = tokenizer(text.strip(), return_tensors="pt")
        with torch.no_grad():
            return model(**ids, output_hidden_states=True).hidden_states[layer][0]

    def cosine(x, y):
        return float(x @ y / (x.norm() * y.norm()))

    ours, theirs = vectors(completion), vectors(target)
    precision = np.mean([max(cosine(x, y) for y in theirs) for x in ours[1:-1]])
    recall = np.mean([max(cosine(x, y) for x in ours) for y in theirs[1:-1]])
    return precision, recall


@pytest.mark.parametrize("layer", [1, DEPTH, DEPTH + 1])
def test_equals_the_slow_definition(folder, layer):
    precision, recall = slow(folder, "a dog runs", "the cat sat", layer)
    f1 = 2 * precision * recall / (precision + recall)
    for part, expected in (("precision", precision), ("recall", recall), ("f1", f1)):
        (found,) = score(load(folder, layer=layer, part=part), ["a dog runs "], references=[["the cat sat"]])
        assert found == pytest.approx(expected, abs=1e-5)
    assert abs(precision - recall) > 1e-4


def test_best_reference_counts(folder):
    reward = load(folder)
    each = score(reward, ["a dog"] * 2, references=[["the cats"], ["dog a"]])
    assert score(reward, ["a dog"], references=[["the cats", "dog a"]])[0] == pytest.approx(each.max(), abs=1e-6)
    assert score(reward, ["a dog"], references=[["the cats", "a dog"]])[0] == pytest.approx(1.0, abs=1e-5)


def test_empty_texts_score_zero(folder):
    reward = load(folder)
    found = score(reward, ["", " \n", "a", "a"], references=[["a"], ["a"], [], ["", " "]])
    assert found.tolist() == [0.0] * 4
    assert reward([], [], [], []).shape == (0,)


def test_scores_do_not_depend_on_the_batch(folder):
    completions = [*tiny_models.ODD[2:], "the plot", "a cat sits on the mat", "cats", "d"]
    references = [["a", "some dog", "x" * 99][: 1 + row % 3] for row in range(len(completions))]
    for batch_size in (64, 2):
        check_independence(load(folder, batch_size=batch_size), completions, references=references)


def test_long_texts_are_truncated_at_the_end(folder):
    reward = load(folder, max_length=10)
    whole, cut, other = score(reward, ["8 bytes.", "8 bytes. more", "9 bytes. more"], references=[["xyz"]] * 3)
    assert whole == pytest.approx(cut, abs=1e-5)
    assert abs(whole - other) > 1e-4


@pytest.mark.parametrize(
    ("family", "layout", "tokens"),
    [("gpt2", "none", {}), ("t5", "eos", {"pad_token": "<pad>"}), ("bart", "both", tiny_models.BERT_TOKENS)],
)
def test_other_families(tmp_path, family, layout, tokens):
    model = tiny_models.made("AutoModel", family)
    folder = tiny_models.saved(tmp_path, model, tiny_models.tokenizer(layout, **tokens))
    reward = load(folder, layer=1)
    found = check_independence(reward, ["a dog", "cats", "x" * 99, "dog a"])
    assert found.max() < 0.999
    assert score(reward, ["a dog", ""], references=[["a dog"]] * 2) == pytest.approx([1.0, 0.0], abs=1e-5)


def test_leading_space_as_in_the_published_code():
    vocabulary = {"<|endoftext|>": 0, "Ġ": 1, "a": 2, "Ġa": 3}
    for tokenizer, tokens in ((GPT2Tokenizer(vocabulary, [("Ġ", "a")]), 1), (tiny_models.tokenizer(), 1)):
        encoder = Encoder(tiny_models.made("AutoModel", "gpt2"), tokenizer)
        (of_text,) = encoder.embed(["a"], max_length=None, batch_size=1).values()
        ids = tokenizer(" a" if isinstance(tokenizer, GPT2Tokenizer) else "a")["input_ids"]
        with torch.no_grad():
            expected = encoder.model(torch.tensor([ids])).last_hidden_state[0]
        assert len(ids) == tokens
        assert torch.allclose(of_text.directions, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("bert_score") is None, reason="no package bert_score to compare with")
@pytest.mark.filterwarnings("ignore")
def test_equals_the_published_code(folder):
    from bert_score import BERTScorer

    scorer = BERTScorer(model_type=str(folder), num_layers=DEPTH, device="cpu")
    completions = ["a dog runs", "the cat sits on the mat", "x" * 99, "cats and dogs"]
    targets = ["the dog ran home", "a cat", "y" * 70, "dogs"]
    theirs = scorer.score(completions, targets)
    for part, expected in zip(("precision", "recall", "f1"), theirs, strict=True):
        found = score(load(folder, part=part), completions, references=[[target] for target in targets])
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}")
def test_captions_match_their_own_references_best(folder):
    """With an untrained model."""
    with gzip.open(DATA / "commongen" / "validation.jsonl.gz", "rt", encoding="utf-8") as file:
        data = [json.loads(line) for _, line in zip(range(300), file, strict=False)]
    completions, references = [row["references"][0] for row in data], [row["references"][1:] for row in data]
    own = score(load(folder, layer=1), completions, references=references)
    others = score(load(folder, layer=1), completions, references=references[1:] + references[:1])
    assert (own > others).mean() > 0.6  # bytes as tokens; chance is 0.5, with a standard error of 0.03


def test_layers(folder):
    assert rewards.load("bert_score").layer == 17  # of roberta-large
    with pytest.raises(ValueError, match=r"bert_score needs layer= for .*: the authors published none"):
        rewards.load("bert_score", model=folder)
    with pytest.raises(ValueError, match="layer must be a whole number of at least 1, got 0"):
        load(folder, layer=0)
    with pytest.raises(ValueError, match=rf"layer must be at most {DEPTH + 1}, the layers of .*, got 4"):
        score(load(folder, layer=4), ["a"])


def test_invalid_settings_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"part must be one of precision, recall, f1, got 'F1'"):
        load(folder, part="F1")
    with pytest.raises(ValueError, match=r"no encoder in .*: it has no config.json"):
        load(tmp_path)
    with pytest.raises(ValueError, match="max_length must be in"):
        score(load(folder, max_length=65), ["a"])


def test_model_is_loaded_once_without_random_numbers(folder):
    before = torch.get_rng_state()
    assert load(folder).encoder is load(folder).encoder
    assert load(folder).encoder is not load(folder, layer=1).encoder
    assert len(load(folder, layer=1).encoder.model.encoder.layer) == 1
    assert torch.equal(torch.get_rng_state(), before)
