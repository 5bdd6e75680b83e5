"""What a step pays and says, and whose it is."""

import numpy as np
import pytest

from tril_gym.utils import deferred_rewards
from tril_gym.utils.batched_infos import batched


def test_an_offer_is_recognised():
    assert deferred_rewards.is_offered(deferred_rewards.offer(can_wait=True))
    assert not deferred_rewards.is_offered(deferred_rewards.offer(can_wait=False))


@pytest.mark.parametrize(("can_wait", "rows"), [(True, [0, 2]), (False, [0])])
def test_idle_rows_are_credited_late_where_they_are_scored(can_wait, rows):
    active, scored = np.array([True, False, False]), batched({2: {"scores": {"rouge_l": -2.5}}}, 4)
    assert deferred_rewards.rows_to_credit(active, scored, can_wait=can_wait).tolist() == rows
    assert deferred_rewards.rows_to_credit(active, {}, can_wait=can_wait).tolist() == [0]


@pytest.mark.parametrize(("can_wait", "rows"), [(True, [0, 2]), (False, [2])])
def test_late_scores_are_merged_within_the_batch(can_wait, rows):
    scored = batched({row: {"scores": {"rouge_l": 0.5}} for row in (0, 2, 3)}, 4)  # row 3 has no text of the batch
    found = deferred_rewards.rows_with_final_info(np.array([2]), scored, 3, can_wait=can_wait)
    assert found.tolist() == rows
    assert found.dtype == np.int64


def test_a_step_without_scores_has_no_final_info():
    nothing = np.zeros(0, dtype=np.int64)
    found = deferred_rewards.rows_with_final_info(nothing, {}, 3, can_wait=True)
    assert (found.tolist(), found.dtype) == ([], np.int64)
