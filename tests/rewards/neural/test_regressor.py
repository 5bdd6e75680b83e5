import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import check_independence, score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tril_gym import rewards


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.classifier(tmp_path_factory.mktemp("regressor"))


@pytest.fixture
def regressor(folder):
    return rewards.load("regressor", model=folder)


def raw(folder, target, completion, truncation="longest_first"):
    """Return the model's output for one pair."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = tokenizer(target, completion, truncation=truncation, max_length=64, return_tensors="pt")
    assert inputs["token_type_ids"].max() == 1  # so that the model can distinguish the two texts
    with torch.no_grad():
        return float(model(**inputs).logits)


def test_score_is_the_output_for_the_pair(regressor, folder):
    (found,) = score(regressor, ["a cat sits"], references=[["the dog"]])
    assert found == pytest.approx(raw(folder, "the dog", "a cat sits"), abs=1e-5)
    assert found != pytest.approx(raw(folder, "a cat sits", "the dog"), abs=1e-3)


def test_best_and_mean_over_references(folder):
    targets = ["the dog", "a cat", "x"]
    outputs = [raw(folder, target, "a cat sits") for target in targets]
    for reduction, pooled in (("max", max(outputs)), ("mean", np.mean(outputs))):
        reward = rewards.load("regressor", model=folder, reduction=reduction)
        assert score(reward, ["a cat sits"], references=[targets])[0] == pytest.approx(pooled, abs=1e-5)


def test_scores_do_not_depend_on_the_batch(folder):
    completions = [*tiny_models.ODD, "the plot", "a cat sits on the mat"]
    references = [["a", "some dog", "x" * 99][: 1 + row % 3] for row in range(len(completions))]
    for batch_size in (64, 2):
        check_independence(
            rewards.load("regressor", model=folder, batch_size=batch_size), completions, references=references
        )


def test_long_pairs_are_truncated_at_the_ends(folder):
    long = "a dog runs after the ball and back again. " * 4
    only_first = rewards.load("regressor", model=folder, truncation="only_first")
    (found,) = score(only_first, ["a cat"], references=[[long]])
    assert found == pytest.approx(raw(folder, long, "a cat", "only_first"), abs=1e-5)
    assert found == pytest.approx(score(only_first, ["a cat"], references=[[long + "tail"]])[0], abs=1e-5)
    assert found != pytest.approx(score(only_first, ["a cat"], references=[["head" + long]])[0], abs=1e-3)


@pytest.mark.parametrize("truncation", ["longest_first", "only_first", "only_second"])
def test_the_chosen_text_is_truncated(folder, truncation):
    first, second = "a dog runs after the ball and back again", "a cat sits on the mat and sleeps"
    reward = rewards.load("regressor", model=folder, truncation=truncation)
    expected = {way: raw(folder, first, second, way) for way in ("longest_first", "only_first", "only_second")}
    assert score(reward, [second], references=[[first]])[0] == pytest.approx(expected[truncation], abs=1e-5)
    assert len({round(output, 4) for output in expected.values()}) == 3


def test_no_references_are_refused(regressor):
    with pytest.raises(ValueError, match=r"regressor compares with references, and 1 of 2 texts have none.* text 1 of"):
        score(regressor, ["a", "b"], references=[["x"], []])
    assert regressor([], [], [], []).shape == (0,)


def test_several_outputs_are_refused(tmp_path):
    three = tiny_models.classifier(tmp_path, num_labels=3)
    with pytest.raises(ValueError, match=r"regressor needs a model with one output, .* has 3"):
        score(rewards.load("regressor", model=three), ["a"])


def test_bleurt_is_a_regressor_with_a_default_model(folder):
    bleurt = rewards.load("bleurt", model=folder, reduction="mean")
    assert bleurt.name == "bleurt"
    assert rewards.load("bleurt").model == "Elron/bleurt-base-512"
    plain = rewards.load("regressor", model=folder, reduction="mean")
    assert score(bleurt, ["a"]).tolist() == score(plain, ["a"]).tolist()
    with pytest.raises(ValueError, match=r"bleurt compares with references"):
        score(bleurt, ["a"], references=[[]])


def test_invalid_settings_are_refused(folder, tmp_path):
    for settings, message in (
        ({"model": folder, "reduction": "best"}, "reduction must be one of max, mean, got 'best'"),
        ({"model": folder, "truncation": "none"}, r"truncation must be one of longest_first, .*got 'none'"),
        ({"model": folder, "batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"model": folder, "dtype": "float64"}, r"dtype must be one of .*got 'float64'"),
        ({"model": tmp_path}, r"no sequence classifier in .*: it has no config.json"),
        ({}, r"regressor has no model; pass model=NAME or FOLDER"),
    ):
        with pytest.raises(ValueError, match=message):
            rewards.load("regressor", **settings)
    with pytest.raises(ValueError, match=r"max_length must be in \[5, 64\] for this model, got 4"):
        score(rewards.load("regressor", model=folder, max_length=4), ["a"])
    with pytest.raises(ValueError, match=r"there is no device 'cuda:99' here"):
        score(rewards.load("regressor", model=folder, device="cuda:99"), ["a"])


@pytest.mark.parametrize(("truncation", "texts"), [("only_first", ("x" * 99, "b")), ("only_second", ("x", "b" * 99))])
def test_a_text_that_leaves_no_room_is_named(folder, truncation, texts):
    reward = rewards.load("regressor", model=folder, truncation=truncation)
    completion, reference = texts
    with pytest.raises(ValueError, match=rf"truncation='{truncation}' leaves no room.*longest_first truncates both"):
        reward(["p"], [completion], [[reference]], [{}])
