"""Batched infos equal those that Gymnasium makes row by row."""

import numpy as np
import pytest
from gymnasium.vector import VectorEnv

from tril_gym.utils.batched_infos import batched, row_of

INFOS = {
    "of one row": {2: {"tokens": [1, 2], "completion": "a b", "example": 3}},
    "of all rows": {row: {"example": row, "prompt": f"p{row}", "references": ["r"] * row} for row in range(4)},
    "with keys that some rows lack": {0: {"a": 1.5, "b": True}, 3: {"b": False, "c": None}},
    "with dictionaries": {
        1: {"extras": {"label": 1, "more": {"x": 0.5}}},
        2: {"extras": {"label": 2}},
        3: {"extras": {}},
    },
    "with arrays": {0: {"x": np.arange(3)}, 2: {"x": np.arange(3) * 2}},
    "with numpy's numbers": {0: {"x": np.float32(0.5), "y": np.int64(7)}, 1: {"x": np.float32(1.5)}},
    "of an end and a reset in one step": {1: {"final_obs": np.arange(4), "final_info": {"tokens": [5]}, "example": 1}},
    "of no row": {},
}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_same(found[key], value)
        else:
            assert found[key].dtype == value.dtype, key
            for ours, theirs in zip(found[key], value, strict=True):
                np.testing.assert_equal(ours, theirs)


@pytest.mark.parametrize("infos", INFOS.values(), ids=INFOS)
def test_batched_infos_equal_those_of_gymnasium(infos):
    envs = VectorEnv()
    envs.num_envs = 4
    expected = {}
    for row, info in infos.items():
        expected = envs._add_info(expected, info, row)
    assert_same(batched(infos, 4), expected)


def test_row_of_is_the_inverse_of_batched():
    infos = {0: {"example": 4, "extras": {"label": 1}}, 2: {"example": 5, "tokens": [1, 2]}}
    together = batched(infos, 3)
    assert {row: row_of(together, row) for row in range(3)} == infos | {1: {}}


@pytest.mark.parametrize(
    "values",
    [
        (3, 2.5),
        (True, 2),
        (3, "x"),
        (3, None),
        (2**70, 1),
        (np.arange(2), np.arange(3)),
        (np.arange(2), np.arange(2) / 4),
        ({"k": 1}, None),
        ({"k": 0}, {"_k": 1}),
    ],
    ids=repr,
)
def test_values_of_several_kinds_stay_as_they_are(values):
    """Gymnasium makes all of them the type of the first: 2.5 becomes 2."""
    for order in (values, values[::-1]):
        together = batched({row: {"extras": {"x": value}} for row, value in enumerate(order)}, 2)
        for row, value in enumerate(order):
            found = row_of(together, row)["extras"]["x"]
            assert type(found) is type(value)
            np.testing.assert_equal(found, value)


def test_masks_are_not_shared_between_keys():
    together = batched({0: {"a": 1, "b": 2}}, 2)
    together["_a"][1] = True
    assert together["_b"].tolist() == [True, False]
