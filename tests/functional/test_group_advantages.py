import pytest
import torch

from tril_gym.functional.group_advantages import (
    has_signal,
    leave_one_out,
    less_group_mean,
    rewards_to_go,
    share_without_signal,
    standardised,
    whitened_rewards_to_go,
)

REWARDS = torch.tensor([1.0, 3.0, 8.0, 0.1, 0.1, 0.1, 5.0], dtype=torch.float64)
GROUP = torch.tensor([4, 4, 4, 9, 9, 9, 2])  # any ids; the last text is alone
KINDS = {"rloo": leave_one_out, "dr-grpo": less_group_mean, "grpo": standardised}


def test_advantages_by_hand():
    # Group 4: mean 4; the others' means are 5.5, 4.5, 2. Squared deviations 9 + 1 + 16 = 26, std √13.
    assert leave_one_out(REWARDS, GROUP).tolist() == [-4.5, -1.5, 6.0, 0.0, 0.0, 0.0, 0.0]
    assert less_group_mean(REWARDS, GROUP).tolist() == [-3.0, -1.0, 4.0, 0.0, 0.0, 0.0, 0.0]
    std = 13**0.5 + 1e-4
    assert standardised(REWARDS, GROUP).tolist() == pytest.approx([-3 / std, -1 / std, 4 / std, 0.0, 0.0, 0.0, 0.0])


def test_rloo_is_a_multiple_of_the_centred_reward():
    # Dr. GRPO: R − mean of the others = k/(k − 1) (R − mean of all); here k = 3.
    assert torch.allclose(leave_one_out(REWARDS, GROUP), 1.5 * less_group_mean(REWARDS, GROUP))


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_groups_and_members_does_not_matter(kind):
    order = torch.randperm(len(REWARDS), generator=torch.Generator().manual_seed(1))
    found = KINDS[kind](REWARDS[order], GROUP[order])
    assert torch.allclose(found, KINDS[kind](REWARDS, GROUP)[order], atol=1e-12)
    # The control: with another group for one text the advantages are others.
    moved = GROUP.clone()
    moved[2] = 9
    assert not torch.allclose(KINDS[kind](REWARDS, moved), KINDS[kind](REWARDS, GROUP))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_rewards_are_no_signal(kind):
    # The mean of three times 0.1 differs from 0.1 by rounding, which a division by the spread would amplify.
    found = KINDS[kind](REWARDS, GROUP)
    assert found[3:].tolist() == [0.0] * 4
    assert torch.isfinite(found).all()
    assert has_signal(REWARDS, GROUP).tolist() == [True] * 3 + [False] * 4
    assert share_without_signal(REWARDS, GROUP) == pytest.approx(2 / 3)
    assert share_without_signal(REWARDS[:3], GROUP[:3]) == 0.0


def test_rewards_to_go_read_no_padding(garbage):
    # γ = 1/2: 1 + 2/2 + 4/4 = 3, 2 + 4/2 = 4, 4; the second text has one token.
    rewards = torch.tensor([[1.0, 2.0, 4.0], [3.0, garbage, garbage]])
    is_token = torch.tensor([[True, True, True], [True, False, False]])
    assert rewards_to_go(rewards, is_token, gamma=0.5).tolist() == [[3.0, 4.0, 4.0], [3.0, 0.0, 0.0]]
    white = whitened_rewards_to_go(rewards, is_token, is_token, gamma=0.5)
    # Of (3, 4, 4, 3) the mean is 3.5, the standard deviation .5.
    assert white[is_token].tolist() == pytest.approx([-1.0, 1.0, 1.0, -1.0], abs=1e-6)
    assert white[~is_token].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_no_signal(dtype):
    group = torch.zeros(2, dtype=torch.int64)
    rounded = torch.tensor([1.0, 1.0], dtype=dtype) + torch.tensor([0, 1], dtype=dtype) * torch.finfo(dtype).eps
    assert rounded[0] != rounded[1]
    assert has_signal(rounded, group).tolist() == [False, False]
    assert has_signal(torch.tensor([1.0, 1.0001], dtype=dtype), group).tolist() == [True, True]
