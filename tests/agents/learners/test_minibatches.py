"""Minibatches of similar length: each text once, little padding, the same weight for every token."""

import gymnasium as gym
import pytest
import torch
from doubles import MANY_EOS, foreign_envs, generator, policy_of
from torch import Tensor

from tril_gym.agents import LMPolicy, Plan, PPOConfig, TextLayout
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.collection.trajectories import minibatches
from tril_gym.agents.learners.actor_critic import ActorCritic


def rows_of(seed: int = 0, epochs: int = 1, lengths: Tensor | None = None) -> list[list[int]]:
    return [
        rows.tolist() for rows in minibatches(22, epochs=epochs, size=4, generator=generator(seed), lengths=lengths)
    ]


LENGTHS = torch.tensor([5, 1, 3, 3, 2, 8, 8, 1, 1, 4, 6, 7, 3, 2, 2, 5, 8, 1, 4, 6, 3, 7])


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["any", "alike"])
def test_each_text_is_used_once_per_epoch(lengths):
    found = rows_of(epochs=3, lengths=lengths)
    assert len(found) == 18
    for epoch in range(3):
        assert sorted(row for rows in found[6 * epoch : 6 * epoch + 6] for row in rows) == list(range(22))
    assert found == rows_of(epochs=3, lengths=lengths)
    assert found != rows_of(seed=1, epochs=3, lengths=lengths)
    assert found[:6] != found[6:12]


def test_similar_lengths_are_grouped_in_random_order():
    def padding(rows: list[list[int]]) -> int:
        return sum(int((LENGTHS[part].max() - LENGTHS[part]).sum()) for part in map(torch.tensor, rows))

    alike, at_random = rows_of(lengths=LENGTHS), rows_of()
    # sorted: 1111 2223 3334 4556 6778 88: 0 + 3 + 3 + 4 + 4 + 0
    assert padding(alike) == 14
    assert padding(at_random) > 2 * 14
    first = {tuple(sorted(LENGTHS[rows_of(seed=seed, lengths=LENGTHS)[0]].tolist())) for seed in range(20)}
    assert len(first) == 6  # the order of minibatches is random
    ties = {tuple(sorted(next(rows for rows in rows_of(seed=seed, lengths=LENGTHS) if 4 in rows))) for seed in range(9)}
    assert len(ties) > 1  # texts of one length are shuffled


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["any", "alike"])
def test_groups_stay_whole_and_are_shuffled(lengths):
    found = [
        rows.tolist()
        for rows in minibatches(22, epochs=2, size=5, generator=generator(), lengths=lengths, group_size=2)
    ]
    pairs = [tuple(rows[at : at + 2]) for rows in found for at in range(0, len(rows), 2)]
    assert all(first % 2 == 0 and second == first + 1 for first, second in pairs)
    assert {len(rows) for rows in found} == {2, 4}  # as many whole groups as fit
    assert sorted(pairs[:11]) == sorted(pairs[11:]) == [(row, row + 1) for row in range(0, 22, 2)]
    assert pairs[:11] != sorted(pairs[:11])


def test_groups_of_similar_length_in_all_are_read_together():
    lengths = torch.tensor([1, 9, 9, 1, 5, 6, 1, 1, 1, 2, 5, 5])  # the pairs have 10, 10, 11, 2, 3 and 10 tokens
    found = minibatches(12, epochs=1, size=4, generator=generator(), lengths=lengths, group_size=2)
    assert {6, 7, 8, 9} in [set(rows.tolist()) for rows in found]


def flat_gradient(learner: ActorCritic) -> Tensor:
    return torch.cat([p.grad.flatten() for p in learner.policy.parameters() if p.grad is not None])


def test_gradients_of_an_epoch_sum_to_the_mean_over_tokens():
    envs: gym.vector.VectorEnv = foreign_envs(16, eos_token_ids=MANY_EOS)
    policy: LMPolicy = policy_of(dtype=torch.float64)
    learner = ActorCritic(policy, PPOConfig(ent_coef=0.1), TextLayout.of(envs))
    trajectories = collect(envs, Plan(rollout=policy), episodes=16, generator=generator(1))
    assert len(set(trajectories.lengths.tolist())) > 3
    critic, _ = learner.critic("policy")
    experience = learner.credit.experience(
        learner.credit.add_reference_and_values(trajectories, critic), kl_coef=learner.kl_controller.coef
    )
    learner.epochs.gradients(experience, critic)
    whole = flat_gradient(learner)

    def summed(own: bool) -> Tensor:
        total = torch.zeros_like(whole)
        lengths = experience.texts.lengths
        for rows in minibatches(16, epochs=1, size=4, generator=generator(), lengths=lengths):
            batch = experience.part(rows)
            learner.epochs.gradients(batch, critic, batch.counts if own else experience.counts.share(4, 16))
            total += flat_gradient(learner) / 4
        return total

    torch.testing.assert_close(summed(own=False), whole, rtol=1e-9, atol=1e-12)
    # The control: with its own mean in every minibatch, the tokens of short texts weigh more.
    assert float((summed(own=True) - whole).norm() / whole.norm()) > 0.05
