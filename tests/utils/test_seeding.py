"""The block of a seed: what it draws, and that nothing outside changes."""

import pytest
import torch

from tril_gym.utils.seeding import seeded


def drawn(*seeds):
    with seeded(*seeds):
        return torch.rand(4).tolist()


def test_one_seed_is_used_as_it_is():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = torch.rand(4).tolist()
    assert drawn(3) == expected


def test_several_seeds_are_mixed():
    found = [drawn(0, 1), drawn(1, 0), drawn(1), drawn(0, 2)]
    assert drawn(0, 1) == found[0]
    assert all(one != other for index, one in enumerate(found) for other in found[:index])


def test_each_step_of_a_run_has_a_seed_of_its_own():
    found = {tuple(drawn(seed, step)) for seed in range(3) for step in range(40)}
    assert len(found) == 3 * 40


@pytest.mark.parametrize("error", [None, ValueError])
def test_the_global_generator_does_not_change(error):
    before = torch.get_rng_state()
    try:
        with seeded(5):
            torch.rand(3)
            if error is not None:
                raise error
    except ValueError:
        pass
    assert torch.equal(torch.get_rng_state(), before)
