import json
import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from reward_examples import Example

from tril_gym import rewards
from tril_gym.rewards.neural import sentiment as sentiment_module
from tril_gym.rewards.neural.sequence_classifier import load_classifier
from tril_gym.rewards.neural.training import FitConfig

QUICK = FitConfig(vocab_size=400, width=32, steps=60, piece=32, shortest_piece=3, warmup=5)


@pytest.fixture(autouse=True)
def quick_fit(monkeypatch):
    """Fit with few steps, which tiny data need."""
    monkeypatch.setattr(sentiment_module, "FIT_CONFIG", QUICK)


@pytest.fixture
def sentiment(reviews):
    return rewards.load("sentiment", train=reviews)


@pytest.fixture
def folder(sentiment):
    """Return a classifier folder."""
    return sentiment.fitted_folder


def score(sentiment, completions, prompts=None):
    number = len(completions)
    return sentiment(prompts or ["this film is"] * number, completions, [[]] * number, [{}] * number)


def test_good_words_score_higher(sentiment):
    good, bad = score(sentiment, ["great , superb", "awful , boring"])
    assert good > 0.8
    assert bad < 0.2
    assert sentiment.held_out_accuracy == 1.0


def test_words_of_the_references_are_learned(reviews):
    train = [Example("a film", (f"{e.prompt} {e.references[0]}",), e.label) for e in reviews]
    good, bad = score(rewards.load("sentiment", train=train), ["great , superb", "awful , boring"])
    assert good > bad + 0.5


def test_shuffled_labels_teach_nothing(reviews):
    """The measured accuracy can be low."""
    labels = [0, 1] * 30
    random.Random(1).shuffle(labels)
    shuffled = [Example(e.prompt, e.references, y) for e, y in zip(reviews, labels, strict=True)]
    assert rewards.load("sentiment", train=shuffled).held_out_accuracy < 0.9


def test_scores_do_not_depend_on_the_batch(sentiment):
    completions = ["great", "awful " * 30, "", "the plot is moving and lovely", "\N{DOG FACE} superb", "great"]
    together = score(sentiment, completions)
    alone = np.array([score(sentiment, [completion])[0] for completion in completions])
    assert together.dtype == np.float64
    assert together == pytest.approx(alone, abs=1e-5)
    assert score(sentiment, completions[::-1]) == pytest.approx(alone[::-1], abs=1e-5)
    assert together.max() - together.min() > 0.1  # results in another order would be detected


def test_small_batches_give_the_same(reviews, sentiment):
    completions = ["great", "awful " * 30, "", "the plot is moving and lovely", "superb"]
    in_twos = rewards.load("sentiment", train=reviews, batch_size=2)
    assert score(in_twos, completions) == pytest.approx(score(sentiment, completions), abs=1e-5)


@pytest.mark.parametrize("text", ["", " \n", "\N{DOG FACE}", "x" * 10_000, "great " * 1700, "\x00", "half \udce2"])
def test_unusual_texts(sentiment, text):
    values = score(sentiment, ["great", text, text])
    assert np.isfinite(values).all()
    assert values[1] == pytest.approx(values[2], abs=1e-5)
    assert values[0] == pytest.approx(score(sentiment, ["great"])[0], abs=1e-5)


def test_completion_is_never_truncated_away(reviews):
    sentiment = rewards.load("sentiment", train=reviews, max_length=12)
    bad, good = "awful boring " * 2000, "great lovely " * 2000
    filled = "great superb lovely " * 5  # more than 12 tokens: no room for a prompt
    after_bad, after_good = score(sentiment, [filled, filled], [bad, good])
    assert after_bad == pytest.approx(after_good, abs=1e-5)
    assert after_bad > 0.8
    after_bad, after_good = score(sentiment, ["the", "the"], [bad, good])
    assert after_bad < after_good - 0.1  # where there is room, the prompt's end is read


def test_prompt_is_read_by_default(reviews, sentiment):
    alone = rewards.load("sentiment", train=reviews, with_prompt=False)
    prompts = ["great lovely superb", "awful dreadful stupid"]
    with_prompt = score(sentiment, ["film", "film"], prompts)
    assert with_prompt[0] > with_prompt[1] + 0.1
    without = score(alone, ["film", "film"], prompts)
    assert without[0] == pytest.approx(without[1], abs=1e-5)


def test_white_space_around_the_completion_is_ignored(sentiment):
    plain, blank = score(sentiment, ["great", "  great\n"])
    assert plain == pytest.approx(blank, abs=1e-5)


def test_inputs_do_not_change(sentiment):
    batch = (["p"], ["c "], [["r"]], [{"label": 1}])
    sentiment(*batch)
    assert batch == (["p"], ["c "], [["r"]], [{"label": 1}])


def test_unequal_lengths_are_refused(sentiment):
    with pytest.raises(ValueError, match="one entry of each kind per text"):
        sentiment(["p", "p"], ["c"], [[]], [{}])
    assert score(sentiment, []).shape == (0,)


def test_loading_is_lazy_and_the_fit_is_shared(reviews):
    asked = []

    def train():
        asked.append(1)
        return list(reviews)

    first, second = (rewards.load("sentiment", train=train) for _ in range(2))
    assert asked == []
    assert first.classifier is second.classifier
    other = [*reviews[:-1], Example("another one", ("great",), 1)]
    assert rewards.load("sentiment", train=other).classifier is not first.classifier


def test_fit_is_cached(reviews, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TRIL_GYM_CACHE", str(tmp_path))
    labelled = tuple(reviews)
    with caplog.at_level(logging.INFO, logger=sentiment_module.__name__):
        folder = sentiment_module.fit(labelled, "content")
    assert "accuracy 1.000 on 6 held-out texts" in caplog.text
    assert caplog.records[0].levelname == "WARNING", "said before it takes a minute or two, also without logging set up"
    assert "fitting the sentiment classifier to 54 labelled texts" in caplog.text
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert sentiment_module.fit(labelled, "content") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    (folder / "model.safetensors").write_bytes(b"torn")
    assert sentiment_module.fit(labelled, "content") == folder
    assert (folder / "model.safetensors").stat().st_size > 1000
    assert sentiment_module.fit(labelled, "other content") != folder


def weights(folder):
    return load_classifier(folder, "cpu").model.state_dict()


def test_weights_do_not_depend_on_global_seeds(reviews, tmp_path, monkeypatch):
    folders = []
    for seed in (1, 2):
        monkeypatch.setenv("TRIL_GYM_CACHE", str(tmp_path / str(seed)))
        torch.manual_seed(seed)
        random.seed(seed)
        folders.append(sentiment_module.fit(tuple(reviews), "content"))
    first, second = map(weights, folders)
    assert all(torch.equal(first[name], second[name]) for name in first)
    monkeypatch.setenv("TRIL_GYM_CACHE", str(tmp_path / "3"))
    other = weights(sentiment_module.fit(tuple(reviews[::-1]), "other content"))
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_global_generators_do_not_change(reviews, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIL_GYM_CACHE", str(tmp_path))

    def states():
        return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002

    before = states()
    folder = sentiment_module.fit(tuple(reviews), "content")
    score(rewards.load("sentiment", model=folder), ["great"])
    assert states() == before
    torch.rand(1)
    assert states() != before


def test_saved_and_loaded_score_is_the_same(sentiment, tmp_path):
    sentiment.save(tmp_path)
    loaded = rewards.load("sentiment", fitted=tmp_path)
    completions = ["great", "awful", "the plot"]
    assert score(loaded, completions).tolist() == score(sentiment, completions).tolist()
    assert loaded.held_out_accuracy == sentiment.held_out_accuracy
    loaded.save(tmp_path / "again")
    assert score(rewards.load("sentiment", fitted=tmp_path / "again"), completions).tolist() == (
        score(sentiment, completions).tolist()
    )


def test_named_model_is_not_copied(folder, tmp_path):
    named = rewards.load("sentiment", model=str(folder))
    named.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert named.held_out_accuracy is None


def test_labels_by_index_and_name(folder):
    def of(label):
        return score(rewards.load("sentiment", model=folder, label=label), ["great"])[0]

    assert of(None) == of(1) == of("POSITIVE") == of("positive")
    assert of(0) == of("negative") == pytest.approx(1 - of(1))
    for unknown in ("joy", 2, -1):
        with pytest.raises(ValueError, match=rf"no label {unknown!r}; its labels are .*NEGATIVE.*POSITIVE"):
            of(unknown)


def renamed(folder, target, **config):
    """Copy a classifier with another configuration."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    old = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(old | config))
    return target


def test_positive_label_is_found_by_name(folder, tmp_path):
    swapped = renamed(folder, tmp_path / "swapped", id2label={"0": "pos", "1": "neg"}, label2id={"pos": 0, "neg": 1})
    default = score(rewards.load("sentiment", model=swapped), ["great"])[0]
    assert default == pytest.approx(score(rewards.load("sentiment", model=folder, label=0), ["great"])[0])
    assert default < 0.5


def test_max_length_is_checked(folder):
    for bad in (1, 513):
        with pytest.raises(ValueError, match=rf"max_length must be in \[2, 512\] for this model, got {bad}"):
            score(rewards.load("sentiment", model=folder, max_length=bad), ["great"])
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, got 0"):
        rewards.load("sentiment", model=folder, batch_size=0)


def test_folder_without_classifier_is_refused(tmp_path):
    for model in (tmp_path, str(tmp_path), "./nothing/here", "/nothing/here", Path("nothing"), "a/b/c"):
        with pytest.raises(ValueError, match=r"no .*classifier in"):
            rewards.load("sentiment", model=model)
    with pytest.raises(ValueError, match=r"no .*classifier in"):
        rewards.load("sentiment", fitted=tmp_path)
    rewards.load("sentiment", model="owner/name")  # the model is downloaded when the first text is scored


def test_model_without_trained_head_is_refused(tmp_path):
    """With a random head the rewards would be random."""
    from transformers import BertConfig, BertModel

    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=400, **tiny)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no trained sequence classifier: it lacks .*classifier"):
        score(rewards.load("sentiment", model=tmp_path), ["great"])


def test_missing_model_and_data_are_refused():
    with pytest.raises(ValueError, match=r"pass model=.*train=\[labelled examples\].*fitted="):
        rewards.load("sentiment")


@pytest.mark.parametrize(
    ("labels", "got"), [([None] * 40, "none"), ([1] * 40, "{1: 40}"), ([0, 1] * 5, "5"), ([0, 1, 2] * 20, "2: 20")]
)
def test_too_few_examples_are_refused(labels, got):
    train = [Example("a film", ("great",), label) for label in labels]
    with pytest.raises(ValueError, match="at least 20 train examples with label 0") as error:
        score(rewards.load("sentiment", train=train), ["great"])
    assert got in str(error.value)
