"""What a resumed run may be given: settings as they were, in part, and the few that may change."""

from dataclasses import replace
from pathlib import Path

import pytest

from tril_gym.experiment import configure
from tril_gym.experiment.resuming import check_total, check_unchanged, with_changes

ENV_ARGS = {"max_new_tokens": 9, "reward_settings": {"my:f": {"timeout": 5}, "rouge_l": {"reduction": "max"}}}
REWARD = {"my:f": 1.0, "rouge_l": 0.5}


@pytest.fixture(scope="module")
def config():
    return configure("ppo", env_args=ENV_ARGS, reward=REWARD, iterations=8, learning_rate=1e-4, lr_iterations=8)


def check(config, given, algorithm="ppo"):
    check_unchanged(config, given, algorithm=algorithm, folder=Path("runs/a"))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"env_args": ENV_ARGS, "reward": REWARD, "learning_rate": 1e-4},
        {"env_args": {"max_new_tokens": 9}},
        {"env_args": {"reward_settings": {"rouge_l": {"reduction": "max"}}}},
        {"env_args": {"reward_settings": {"my:f": {"timeout": 60, "retries": 9}}}},
        {"iterations": 4, "keep": 7, "skip_nonfinite": 2},
    ],
)
def test_what_is_accepted(config, given):
    check(config, given)
    check(config, given, algorithm=None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"env_args": {"max_new_tokens": 8}}, "--env-args is"),
        ({"env_args": {"min_new_tokens": 8}}, "--env-args is"),
        ({"env_args": {"reward_settings": {"rouge_l": {"reduction": "mean"}}}}, "--env-args is"),
        ({"reward": {"my:f": 1.0}}, "--reward is"),
        ({"learning_rate": 1e-5}, r"--learning-rate is 0\.0001 in runs/a, got 1e-05; only --iterations, --keep"),
        ({"warp": 9}, "no setting 'warp'"),
    ],
)
def test_what_is_refused(config, given, words):
    with pytest.raises(ValueError, match=words):
        check(config, given)


def test_an_environment_may_have_settings_named_as_those_of_retries(config):
    own = replace(config, env_args={"timeout": 5, "limits": {"retries": 1}})
    check(own, {"env_args": {"timeout": 5, "limits": {"retries": 1}}})
    check(own, {"env_args": {"reward_settings": {"rouge_l": {"retries": 2}}}})
    for other in ({"timeout": 6}, {"limits": {"retries": 2}}):
        with pytest.raises(ValueError, match="--env-args is"):
            check(own, {"env_args": other})


def test_another_algorithm_is_refused(config):
    with pytest.raises(ValueError, match="is a run of ppo, not of bc"):
        check(config, {}, algorithm="bc")


def test_changes_are_taken(config):
    given = {"keep": 7, "skip_nonfinite": 2, "env_args": {"reward_settings": {"my:f": {"timeout": 60}}}}
    changed = with_changes(config, given)
    assert (changed.keep, changed.hyperparameters["skip_nonfinite"]) == (7, 2)
    assert changed.env_args["reward_settings"] == {"my:f": {"timeout": 60}, "rouge_l": {"reduction": "max"}}
    assert with_changes(config, {}) == config


def test_more_iterations_than_the_schedule_are_refused(config):
    assert config.hyperparameters["lr_schedule"] == "linear"
    assert with_changes(config, {"iterations": 5}).iterations == 5
    with pytest.raises(ValueError, match="--iterations 9 is more than the 8 after which the learning rate"):
        with_changes(config, {"iterations": 9})


def test_fewer_iterations_than_the_run_has_are_refused(config):
    check_total(config, 8, folder=Path("runs/a"))
    with pytest.raises(ValueError, match=r"--iterations 8 is less than the 9 that runs/a has; it is the total number"):
        check_total(config, 9, folder=Path("runs/a"))
