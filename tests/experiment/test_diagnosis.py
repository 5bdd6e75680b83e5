"""Signs of known causes in runs without a gain: each appears beyond its bound, and not below it."""

import re

import pytest

from tril_gym.experiment import configure
from tril_gym.experiment.algorithms import ALGORITHMS
from tril_gym.experiment.diagnosis import means, signs
from tril_gym.experiment.verdict import verdict_of

BEFORE = {"text/length": 20.0, "text/repetition": 0.01, "kl": 0.0}
QUIET = {"kl": 2.0, "kl_coef": 0.02, "reward/std": 0.1, "critic/explained_variance": 0.4, "discriminator/accuracy": 0.7}


def found(after=BEFORE, row=QUIET, *, greedy=(0.0, 0.0), sampled=(0.0, 0.0), before=BEFORE):
    """Return the signs of a run of three equal iterations whose rewards rise from 0 in two examples."""
    nothing = {"greedy": [0.0, 0.0], "sampled": [0.0, 0.0]}
    texts = [{"greedy": {}, "sampled": dict(part)} for part in (before, after)]
    rewards = {"greedy": list(greedy), "sampled": list(sampled)}
    verdict = verdict_of({"rewards": nothing, "metrics": texts[0]}, {"rewards": rewards, "metrics": texts[1]})
    return signs(*texts, [row] * 3, verdict)


CASES = {
    "KL": ({"kl": 10.1}, {"kl": 9.9}, {}, {}, r"KL 10\.1 nats a text: lower learning_rate"),
    "length": (
        {"text/length": 14.0},
        {"text/length": 16.0},
        {},
        {},
        r"20\.0 → 14\.0 tokens.*kl_coef × kl 0\.04 a text",
    ),
    "repetition": ({"text/repetition": 0.05}, {"text/repetition": 0.02}, {}, {}, r"trigrams, 1\.0% → 5\.0%"),
    "critic": (
        {},
        {},
        {"critic/explained_variance": -0.2},
        {"critic/explained_variance": 0.06},
        r"critic explains 0% .* critic_warmup 2",
    ),
    "critic that finishes": (
        {},
        {},
        {"critic/explained_variance": None, "guide_critic/explained_variance": 0.0},
        {"critic/explained_variance": None, "guide_critic/explained_variance": 0.3},
        r"critic explains 0%",
    ),
    "alike": (
        {},
        {},
        {"group/zero_variance": 1.0},
        {"group/zero_variance": 0.5},
        "all texts of a prompt have the same reward",
    ),
    "equal rewards": ({}, {}, {"reward/std": 0.0}, {"reward/std": 0.01}, "all texts of a prompt have the same reward"),
    "unknown words": (
        {"text/unknown_words": 0.6},
        {"text/unknown_words": 0.02},
        {},
        {},
        "a word that no training text has, 0% → 60%: a lower",
    ),
    "discriminator": (
        {},
        {},
        {"discriminator/accuracy": 0.99},
        {"discriminator/accuracy": 0.94},
        r"right about 99% .* discriminator_accuracy 0\.8",
    ),
    "guide": (
        {},
        {},
        {"reward/policy_alone": 0.5, "reward/guide_finished": 0.4},
        {"reward/policy_alone": 0.5, "reward/guide_finished": 0.6},
        r"guide finished earn 0\.4, the policy's own 0\.5",
    ),
}


def test_rewards_that_are_not_learned_from_have_no_sign():
    nothing = {"greedy": [0.0, 0.0], "sampled": [0.0, 0.0]}
    texts = {"greedy": {}, "sampled": dict(BEFORE)}
    verdict = verdict_of({"rewards": nothing, "metrics": texts}, {"rewards": nothing, "metrics": texts})
    for learns in (True, False):
        assert bool(signs(texts, texts, [{"reward/std": 0.0}], verdict, learns_from_rewards=learns)) == learns


@pytest.mark.parametrize("name", CASES)
def test_each_sign_appears_beyond_its_bound_alone(name):
    after, quiet_after, row, quiet_row, sentence = CASES[name]
    assert found(BEFORE | quiet_after, QUIET | quiet_row) == []
    (sign,) = found(BEFORE | after, QUIET | row)
    assert re.search(sentence, sign)


def test_after_a_gain_and_without_a_reward_there_are_none():
    assert found(BEFORE | {"kl": 50.0})
    assert found(BEFORE | {"kl": 50.0}, greedy=(1.0, 1.0), sampled=(1.0, 1.0)) == []
    assert signs({"sampled": BEFORE}, {"sampled": BEFORE | {"kl": 50.0}}, [QUIET], {"outcome": "no reward"}) == []


def test_only_the_sampled_reward_rises():
    (sign,) = found(sampled=(1.0, 1.0))
    assert "the greedy one did not" in sign
    assert found(greedy=(1.0, 1.0)) == []


def test_short_texts_are_no_sign_without_a_penalty():
    short = BEFORE | {"text/length": 5.0}
    assert len(found(short)) == 1
    assert found(short, QUIET | {"kl_coef": 0.0}) == []


def test_the_advice_does_not_contradict_itself():
    (sign,) = found(BEFORE | {"kl": 50.0, "text/length": 5.0})  # lower kl_coef would raise the KL further
    assert "raise kl_coef" in sign


def test_the_last_third_of_the_iterations_counts():
    verdict = verdict_of(*({"rewards": {"greedy": [0.0], "sampled": [0.0]}, "metrics": {"sampled": {}}},) * 2)
    texts = {"greedy": {}, "sampled": BEFORE}
    poor = {"critic/explained_variance": 0.0}
    assert signs(texts, texts, [poor] * 4 + [QUIET] * 2, verdict) == []
    assert len(signs(texts, texts, [QUIET] * 4 + [poor] * 2, verdict)) == 1
    assert signs(texts, texts, [], verdict) == []


def test_means_leave_out_what_is_not_finite():
    assert means([{"a": 1.0, "b": None}, {"a": None, "b": None}, {"a": 3}]) == {"a": 2.0}


@pytest.mark.parametrize(
    ("scores", "advice"),
    [
        ({}, "add a second reward term, such as 0.5 repetition_penalty"),
        ({"score/repetition_penalty": -0.05}, "raise the weight of repetition_penalty"),
    ],
)
def test_a_penalty_that_is_there_is_to_be_raised(scores, advice):
    before = {"sampled": {"text/length": 20.0, "text/repetition": 0.01}}
    after = {"sampled": before["sampled"] | {"text/repetition": 0.05} | scores}
    verdict = {"outcome": "no gain", "greedy": {"standard_errors": 0.0}, "sampled": {"standard_errors": 0.0}}
    (sign,) = signs(before, after, [], verdict)
    assert sign.endswith(advice)


SIGNS = {  # by what the texts and the last iterations show
    "KL": ({"kl": 50.0}, {}),
    "unknown words": ({"text/unknown_words": 0.5}, {}),
    "critic": ({}, {"critic/explained_variance": 0.0}),
    "alike": ({}, {"reward/std": 0.0}),
    "discriminator": ({}, {"discriminator/accuracy": 0.99}),
}
NAMED = ("kl_coef", "temperature", "critic_warmup", "baseline")  # settings that a sign may name


def sign_of(name, settings, *, sampled=0.0):
    after, row = SIGNS[name]
    before = {"text/length": 20.0}
    verdict = {
        "outcome": "no gain",
        "greedy": {"standard_errors": 0.0},
        "sampled": {"standard_errors": sampled},
    }
    return signs({"sampled": before}, {"sampled": before | after}, [row], verdict, settings=settings)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_advice_names_only_what_the_algorithm_has(algorithm):
    settings = configure(algorithm).hyperparameters
    for name in SIGNS if "critic_warmup" in settings else SIGNS.keys() - {"critic"}:
        for sign in sign_of(name, settings, sampled=3.0):
            for setting in NAMED:
                assert setting not in sign or setting in settings, sign


def test_what_is_set_so_already_is_no_advice():
    settings = configure("ppo").hyperparameters
    (sign,) = sign_of("critic", settings)
    assert settings["gae_lambda"] == 1
    assert sign.endswith("variance: critic_warmup 2, or baseline prompt")
    (sign,) = sign_of("critic", settings | {"gamma": 0.99})
    assert sign.endswith("variance: critic_warmup 2")
    (sign,) = sign_of("critic", settings | {"critic_warmup": 2, "baseline": "prompt"})
    assert sign.endswith("variance: another critic_learning_rate")
    (sign,) = sign_of("alike", settings | {"temperature": 1.0})
    assert sign.endswith("none is better: an easier reward")


def test_gail_has_no_baseline_of_the_environment():
    (sign,) = sign_of("critic", configure("gail").hyperparameters)
    assert "baseline" not in sign


def test_a_large_kl_is_no_sign_in_imitation_and_beta_holds_pairs():
    assert sign_of("KL", configure("bc").hyperparameters) == []
    assert sign_of("KL", configure("dpo").hyperparameters) == [
        "KL 50.0 nats a text: lower learning_rate, or raise beta"
    ]
    assert sign_of("KL", configure("raft").hyperparameters) == ["KL 50.0 nats a text: lower learning_rate"]


@pytest.mark.parametrize(("limit", "is_named"), [(None, True), (0.9, True), (0.8, False), (0.7, False)])
def test_a_limit_that_the_discriminator_has_is_no_advice(limit, is_named):
    settings = configure("gail").hyperparameters
    assert settings["discriminator_accuracy"] == 0.8
    (sign,) = sign_of("discriminator", settings | {"discriminator_accuracy": limit})
    assert ("discriminator_accuracy 0.8" in sign) == is_named
    assert sign.endswith("a lower discriminator_learning_rate")
