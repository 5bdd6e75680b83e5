"""Settings of a reward model's run: bounds, combinations, and defaults that depend on the model."""

import math

import pytest

from tril_gym.reward_model.config import RewardModelConfig, resolve


def config_of(**settings):
    return RewardModelConfig(dataset="pairs.jsonl", **settings)


def resolved(num_pairs, **settings):
    return resolve(config_of(**settings), num_pairs=num_pairs, max_length=64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be in .0, 1., got 0.0"),
        ({"learning_rate": math.inf}, "learning_rate must be finite"),
        ({"learning_rate": math.nan}, "learning_rate must be .*, got nan"),
        ({"epochs": 0}, "epochs must be .*, got 0"),
        ({"batch_size": 0}, "batch_size must be .*, got 0"),
        ({"warmup": 1.5}, "warmup must be .*, got 1.5"),
        ({"drop_tokens": 1.0}, "drop_tokens must be .*, got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be .*, got -1.0"),
        ({"center_coef": -1.0}, "center_coef must be .*, got -1.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be .*, got 0.0"),
        ({"seed": -1}, "seed must be .*, got -1"),
        ({"max_length": 3}, "max_length must be .*, got 3"),
        ({"template": "{prompt}"}, "template must be a format of {prompt} and {completion}"),
        ({"lora_alpha": 2.0}, "need --lora-rank"),
        ({"lora_rank": 4}, "a tiny model is trained whole"),
        ({"max_length": 5000}, "max_length of a tiny model must be at most 4096, got 5000"),
        ({"device": "abacus"}, "there is no device 'abacus'"),
        ({"device": "meta"}, "device must be one of cpu, cuda, mps, got 'meta'"),
    ],
)
def test_refuses_bad_values(settings, message):
    with pytest.raises(ValueError, match=message):
        config_of(**settings)


def test_defaults_depend_on_the_model():
    large, tiny = resolved(100, model="gpt2"), resolved(1000)
    assert (large.epochs, large.batch_size, large.learning_rate, large.drop_tokens) == (1, 32, 1e-5, 0.0)
    assert (tiny.batch_size, tiny.learning_rate, tiny.drop_tokens, tiny.max_length) == (16, 5e-4, 0.3, 64)
    assert tiny.epochs == 4  # 250 steps of 16 are 4,000 pairs
    assert resolved(100_000).epochs == 1


def test_given_values_win_over_defaults():
    given = {"epochs": 3, "batch_size": 2, "learning_rate": 1e-6, "drop_tokens": 0.0}
    found = resolved(1000, **given)
    assert {name: getattr(found, name) for name in given} == given
