"""Contract of all rewards that need no model."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reward_examples import Example

from tril_gym import rewards
from tril_gym.testing import check_reward
from tril_gym.testing.rewards import check_scores

TRAIN = [
    Example(references=("a dog runs after a ball", "the dog chases the ball")),
    Example(references=("a cat sits on the mat",)),
    Example(references=("a dog looks at the cat",)),
]
TEXT_REWARDS = {
    "bleu": rewards.load("bleu"),
    "choice": rewards.load("choice", against="answer", choices="dog,cat"),
    "chrf": rewards.load("chrf"),
    "cider_d": rewards.load("cider_d", train=TRAIN),
    "concept_coverage": rewards.load("concept_coverage"),
    "concept_order": rewards.load("concept_order"),
    "concept_stems": rewards.load("concept_stems"),
    "end_bonus": rewards.load("end_bonus"),
    "exact_match": rewards.load("exact_match", against="answer"),
    "length_bonus": rewards.load("length_bonus"),
    "length_penalty": rewards.load("length_penalty", most=3),
    "meteor_exact_stem": rewards.load("meteor_exact_stem"),
    "number_match": rewards.load("number_match", against="number"),
    "regex": rewards.load("regex", pattern="dogs?"),
    "repetition_penalty": rewards.load("repetition_penalty", n=1),
    "rouge_1": rewards.load("rouge_1"),
    "rouge_2": rewards.load("rouge_2"),
    "rouge_combined": rewards.load("rouge_combined"),
    "rouge_l": rewards.load("rouge_l"),
    "rouge_l over the mean": rewards.load("rouge_l", reduction="mean"),
    "rouge_lsum": rewards.load("rouge_lsum"),
    "sari": rewards.load("sari"),
    "ter": rewards.load("ter", most_words=20),
}
RANGES = dict.fromkeys(("bleu", "chrf", "sari"), (0, 100)) | {"cider_d": (0, 10), "ter": (0, np.inf)}
RANGES |= {"length_penalty": (-np.inf, 0), "repetition_penalty": (-1, 0)}
# Scores of an empty completion that are not 0; for sari it is correct to delete the only word of the source.
EMPTY = {"ter": 100.0, "end_bonus": 1.0, "sari": pytest.approx(100 / 12)}
CHECKED = ("choice", "exact_match", "number_match", "regex")  # against what END has
OTHERS = ("end_bonus", "length_penalty", "repetition_penalty", *CHECKED)
TELLS_WORDS = [name for name in TEXT_REWARDS if name not in OTHERS]
END = {"finish_reason": "stop", "answer": "dog", "number": 7}
WORDS = ["a", "dog", "dogs", "ball", "runs", "cat", "mat", "the", ".", "chases", "on", "\N{DOG FACE}", "  ", "Sits"]

sentences = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
texts = sentences | st.text(max_size=20)
rows = st.tuples(
    texts,
    texts,
    st.lists(texts, max_size=3),
    st.builds(
        lambda concepts, end: END | {"concepts": concepts, "finish_reason": end},
        st.lists(st.sampled_from(WORDS), max_size=3),
        st.sampled_from(["stop", "length"]),
    ),
)
every_text_reward = pytest.mark.parametrize("score", TEXT_REWARDS.values(), ids=TEXT_REWARDS.keys())
# The first example loads spaCy and nltk, in seconds.
quickly = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def score_rows(score, batch):
    columns = [list(column) for column in zip(*batch, strict=True)] or [[], [], [], []]
    return score(*columns)


def alone(score, batch):
    return [float(score_rows(score, [row])[0]) for row in batch]


def bounds_of(score):
    return RANGES.get(score.name, (0, 1))


@every_text_reward
def test_rewards_conform(score):
    extras = END | {"concepts": ["dog", "ball"]}
    check_reward(score, [("a dog and a ball", "the dog", ["a dog runs"], extras)], bounds=bounds_of(score))


@every_text_reward
@quickly
@given(batch=st.lists(rows, min_size=1, max_size=6))
def test_any_texts_have_scores_of_their_own(score, batch):
    check_scores(score, batch, bounds=bounds_of(score))


@pytest.mark.parametrize("name", TEXT_REWARDS)
@pytest.mark.parametrize("blank", ["", " ", "\n\t "])
def test_score_of_an_empty_completion(name, blank):
    row = ("cat", blank, ["the dog chases the ball"], {"concepts": ["dog"]} | END)
    assert alone(TEXT_REWARDS[name], [row])[0] == EMPTY.get(name, 0.0)


@pytest.mark.parametrize("name", TELLS_WORDS)
def test_good_completion_scores_more_than_an_empty_one(name):
    best = ("dog", "the dog chases the ball", ["the dog chases the ball"], {"concepts": ["dog"]})
    found = alone(TEXT_REWARDS[name], [best])[0]
    assert (found < 100) if name == "ter" else (found > 0)


@pytest.mark.parametrize("name", [name for name in TELLS_WORDS if not name.startswith(("concept_", "length_"))])
def test_missing_and_repeated_references(name):
    score, text = TEXT_REWARDS[name], "the dog sees a ball"
    none, one, twice = (alone(score, [("dog", text, ["the dog chases the ball"] * n, {})])[0] for n in (0, 1, 2))
    assert none == (100.0 if name == "ter" else 0.0)
    assert one == pytest.approx(twice)
    assert one != none


@every_text_reward
def test_an_empty_batch_has_no_scores(score):
    assert score([], [], [], []).shape == (0,)


@every_text_reward
def test_unequal_lengths_are_refused(score):
    batch = (["p", "p"], ["c", "c"], [["r"], ["r"]], [{"concepts": ["c"]} | END] * 2)
    assert score(*batch).shape == (2,)
    for i in range(4):
        short = [column[:1] if i == j else column for j, column in enumerate(batch)]
        with pytest.raises(ValueError, match=r"one entry of each kind per text.*: 1"):
            score(*short)


@every_text_reward
def test_strings_in_place_of_lists_are_refused(score):
    with pytest.raises(ValueError, match="completions must be a list"):
        score(["p"], "c", [["r"]], [{"concepts": ["c"]}])
    with pytest.raises(ValueError, match="references must hold a list of texts"):
        score(["p"], ["c"], ["r"], [{"concepts": ["c"]}])
