"""Contract of all rewards that run a model or a pipeline: the score of a text depends on nothing but the text."""

import pytest
import tiny_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spacy_pipeline import save_pipeline

from tril_gym import rewards
from tril_gym.testing import check_reward
from tril_gym.testing.rewards import check_scores

WORDS = ["a", "dog", "the", "cat", "chases", "ball", ".", "on", "mat", "\N{DOG FACE}", "  ", "", "\udce2", "</s>"]
TRAIN = [
    {"references": ["a dog chases a ball"]},
    {"references": ["the cat sits on the mat"]},
    {"references": ["a dog"]},
]
TOLERANCE = dict.fromkeys(("spice", "spider"), 0.0)  # exact; models to 1e-5

texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join) | st.text(max_size=12)
rows = st.tuples(texts, texts, st.lists(texts, min_size=1, max_size=3), st.just({}))
quickly = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


class Example:
    """An example that rewards are fitted on."""

    prompt, label = "", None

    def __init__(self, references):
        self.references = references


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the settings of every such reward, on small models."""
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
    return {
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


@pytest.fixture(scope="module")
def scores(made):
    """Return every such reward."""
    train = [Example(**row) for row in TRAIN]
    return {name: rewards.load(name, train=train, **settings) for name, settings in made.items()}


NAMES = ["bert_score", "bleurt", "classifier", "output_perplexity", "preference", "regressor", "sentiment", "spice"]
every_name = pytest.mark.parametrize("name", [*NAMES, "spider"])


@every_name
@quickly
@given(batch=st.lists(rows, min_size=1, max_size=5))
def test_any_texts_have_scores_of_their_own(scores, name, batch):
    check_scores(scores[name], batch, tolerance=TOLERANCE.get(name, 1e-5))


@every_name
def test_rewards_conform(scores, name):
    check_reward(scores[name], tolerance=TOLERANCE.get(name, 1e-5))


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_model_runs_in_the_chosen_precision(scores, made, name):
    half = rewards.load(name, **made[name], dtype="bfloat16")
    texts = ["p"] * 2, ["a dog", "the cat sits"], [["a cat"]] * 2, [{}] * 2
    exact, rounded = scores[name](*texts), half(*texts)
    assert rounded == pytest.approx(exact, rel=0.1, abs=0.1)
    assert (rounded != exact).all()


def test_every_reward_is_tested():
    """Each reward is tested here, with the rewards without model, or in its own file if it needs a program."""
    from test_text_rewards import TEXT_REWARDS

    with_a_program = {"meteor", "official_spice"}
    known = {*NAMES, "spider", *with_a_program, *(score.name for score in TEXT_REWARDS.values())}
    assert known == set(rewards.names("text"))
