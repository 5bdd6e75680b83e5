"""Schedules: worked out by hand, and those of transformers' schedules."""

import math

import pytest
import torch
from torch import nn

from tril_gym.functional.schedules import learning_rate_factor, linear


def factors(schedule, warmup, iterations, count):
    return [learning_rate_factor(i, schedule=schedule, warmup=warmup, iterations=iterations) for i in range(count)]


def test_a_number_moves_linearly_by_hand():
    # From 1 to 3 in four iterations, half a unit each; then it stays.
    assert [linear(i, start=1.0, end=3.0, iterations=4) for i in range(6)] == [1.0, 1.5, 2.0, 2.5, 3.0, 3.0]


def test_constant_with_warmup_by_hand():
    assert factors("constant", 3, None, 6) == [1 / 4, 2 / 4, 3 / 4, 1, 1, 1]


def test_linear_by_hand():
    # Two iterations of warm-up, then four steps from 1 to 0.
    assert factors("linear", 2, 6, 9) == pytest.approx([1 / 3, 2 / 3, 1, 3 / 4, 1 / 2, 1 / 4, 0, 0, 0], abs=0)


def test_cosine_by_hand():
    # ½ (1 + cos πt/4), cos 45° = √½
    expected = [1, 0.5 + math.sqrt(0.5) / 2, 0.5, 0.5 - math.sqrt(0.5) / 2, 0, 0]
    assert factors("cosine", 0, 4, 6) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(("warmup", "iterations"), [(0, 1), (0, 2), (1, 2), (0, 7), (5, 7), (5, 23)])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_factors_are_those_of_transformers(schedule, warmup, iterations):
    """To the last bit. Its step is our iteration plus one; after its end, where its cosine would rise, ours stays 0."""
    from transformers import get_scheduler

    carrier = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(name, carrier, num_warmup_steps=warmup + 1, num_training_steps=iterations + 1)
    for ours in factors(schedule, warmup, iterations, iterations + 1):
        carrier.step()
        theirs.step()
        assert ours == theirs.get_last_lr()[0]
    assert factors(schedule, warmup, iterations, 3 * iterations + 1)[-1] == (1.0 if schedule == "constant" else 0.0)
