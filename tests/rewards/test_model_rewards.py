"""Contract of all rewards that run a model or a pipeline: the score of a text depends on nothing but the text."""

import copy

import numpy as np
import pytest
import tiny_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spacy_pipeline import save_pipeline

from tril_gym import rewards
from tril_gym.rewards.base import check_batch

WORDS = ["a", "dog", "the", "cat", "chases", "ball", ".", "on", "mat", "\N{DOG FACE}", "  ", "", "\udce2", "</s>"]
TRAIN = [
    {"references": ["a dog chases a ball"]},
    {"references": ["the cat sits on the mat"]},
    {"references": ["a dog"]},
]
TOLERANCE = dict.fromkeys(("spice", "spider"), 0.0)  # exact; models to 1e-5

texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join) | st.text(max_size=12)
rows = st.tuples(texts, texts, st.lists(texts, min_size=1, max_size=3))
quickly = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


class Example:
    """An example that rewards are fitted on."""

    prompt, label = "", None

    def __init__(self, references):
        self.references = references


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """Return every such reward, on small models."""
    folder = tmp_path_factory.mktemp("models")
    decoder = {"tokens": {"pad_token": "<pad>"}, "layout": "none"}
    preference_model = tiny_models.classifier(folder / "preference_model", "gpt2", **decoder)
    classes = tiny_models.classifier(folder / "classes", num_labels=2)
    pair = tiny_models.classifier(folder / "pair")
    language = tiny_models.language_model(folder / "language")
    pipeline = save_pipeline(folder / "pipeline")
    bert = tiny_models.saved(
        folder / "bert", tiny_models.made("AutoModel", "bert"), tiny_models.tokenizer("both", **tiny_models.BERT_TOKENS)
    )
    train = [Example(**row) for row in TRAIN]
    made = {
        "bert_score": {"model": bert, "layer": 2},
        "bleurt": {"model": pair},
        "classifier": {"model": classes, "label": 1},
        "output_perplexity": {"model": language, "log": True},
        "preference": {"model": preference_model},
        "regressor": {"model": pair, "reduction": "mean"},
        "sentiment": {"model": classes, "label": 1},
        "spice": {"pipeline": pipeline},
        "spider": {"pipeline": pipeline},
    }
    return {name: rewards.load(name, train=train, **settings) for name, settings in made.items()}


NAMES = ["bert_score", "bleurt", "classifier", "output_perplexity", "preference", "regressor", "sentiment", "spice"]
every_name = pytest.mark.parametrize("name", [*NAMES, "spider"])


def columns_of(batch):
    prompts, completions, references = ([list(part) for part in zip(*batch, strict=True)]) if batch else ([], [], [])
    return prompts, completions, [list(of_one) for of_one in references], [{} for _ in batch]


def check(score, batch, order, tolerance):
    """Check that a score does not depend on other texts, order, repetition or earlier calls; inputs do not change."""
    shuffled = batch + batch[:2]
    order.shuffle(shuffled)
    columns = columns_of(shuffled)
    before = copy.deepcopy(columns)
    together = score(*columns)
    assert columns == before
    assert together.shape == (len(shuffled),)
    assert np.isfinite(together).all()
    alone = [float(score(*columns_of([row]))[0]) for row in shuffled]
    np.testing.assert_allclose(together, alone, rtol=tolerance, atol=tolerance)


@every_name
@quickly
@given(batch=st.lists(rows, min_size=1, max_size=5), order=st.randoms(use_true_random=False))
def test_scores_do_not_depend_on_other_texts(scores, name, batch, order):
    check(scores[name], batch, order, TOLERANCE.get(name, 1e-5))


@every_name
def test_unusual_texts_have_a_score(scores, name):
    odd = ["", " \n", "x" * 10_000, "\N{DOG FACE}", "half \udce2", "dog\x00ball", "a dog chases a ball"]
    check(
        scores[name],
        [("p", text, ["a dog", "a dog"]) for text in odd],
        np.random.RandomState(0),
        TOLERANCE.get(name, 1e-5),
    )
    assert scores[name]([], [], [], []).shape == (0,)


def test_mean_of_the_batch_is_detected():
    def batch_mean(prompts, completions, references, extras):
        check_batch(prompts, completions, references, extras)
        return np.full(len(prompts), np.mean([len(text) for text in completions]))

    with pytest.raises(AssertionError):
        check(batch_mean, [("", "a", ["r"]), ("", "bbb", ["r"])], np.random.RandomState(0), 1e-5)


def test_every_reward_is_tested():
    """Each reward is tested here, with the rewards without model, or in its own file if it needs a program."""
    from test_text_rewards import TEXT_REWARDS

    with_a_program = {"meteor", "official_spice"}
    known = {*NAMES, "spider", *with_a_program, *(score.name for score in TEXT_REWARDS.values())}
    assert known == set(rewards.names("text"))
