"""RSO by tournament, and iterated: the policy of the last iteration writes the candidates."""

import pytest
import torch
from doubles import history, toy_envs, toy_policy

from tril_gym.agents import RSO, RSOConfig
from tril_gym.functional.rejection import first_round_pairs, tournament_pairs

NUMBERS = {"learning_rate": 1e-2, "episodes_per_iteration": 16, "minibatch_size": 8, "check_model": False}


def agent_of(**numbers):
    return RSO(toy_policy(dtype=torch.float64), toy_envs(16), RSOConfig(**NUMBERS | numbers))


def weights(policy):
    return torch.cat([weight.flatten() for weight in policy.language_model.state_dict().values()])


def test_a_tournament_by_hand():
    # Accepted 5, 0, 3, 1, 4 with rewards .1, .9, .5, .7, .2: (0, 5), (1, 3), 4 unpaired; (0, 1), 4 unpaired; (0, 4).
    rewards = torch.tensor([0.9, 0.7, 9.0, 0.5, 0.2, 0.1])
    accepted = torch.tensor([5, 0, 3, 1, 4])
    assert tournament_pairs(accepted, rewards).tolist() == [[0, 5], [1, 3], [0, 1], [0, 4]]
    assert first_round_pairs(accepted, rewards).tolist() == [[0, 5], [1, 3]]
    assert tournament_pairs(accepted, torch.zeros(6)).shape == (0, 2)  # ties are no preference
    assert tournament_pairs(accepted[:1], rewards).shape == (0, 2)


def test_a_tournament_has_more_pairs():
    pairs = {}
    for pairing in ("first_round", "tournament"):
        agent = agent_of(pairing=pairing, rejection_beta=100.0)
        history(agent, 1)
        pairs[pairing] = len(agent.learner.experience) // 2
    assert 2 <= pairs["first_round"] < pairs["tournament"] <= 6  # of two groups of 4 accepted texts at most 2 · 3


def test_the_reference_policy_becomes_the_policy():
    agent, constant = agent_of(reference_every=2), agent_of()
    start = weights(agent.policy)
    history(agent, 1), history(constant, 2)
    assert torch.equal(weights(agent.learner.ref_policy), start)
    (row,) = history(agent, 1)
    assert torch.equal(weights(agent.learner.ref_policy), weights(agent.policy))
    assert not torch.equal(weights(agent.policy), start)
    assert torch.equal(weights(constant.learner.ref_policy), start)  # control: never by default
    assert (agent.learner.first_policy, constant.learner.first_policy) == (None, constant.learner.ref_policy)
    assert not agent.learner.credit.known
    assert agent.plan(2).rollout is agent.learner.ref_policy
    assert abs(row["kl"]) > 1e-6
    kl = agent.learner._kl(agent.learner.credit.add_reference_and_values(trajectories_of(agent), None), agent.generator)
    assert kl["kl"] == pytest.approx(0, abs=1e-9)


def trajectories_of(agent):
    from tril_gym.agents import collect

    return collect(agent.envs, agent.plan(0), episodes=16, generator=torch.Generator().manual_seed(0))


def test_an_iterated_agent_resumes_exactly(tmp_path):
    agent = agent_of(reference_every=1)
    history(agent, 1)
    agent.save(tmp_path / "agent")
    assert history(RSO.load(tmp_path / "agent", envs=toy_envs(16)), 2) == history(agent, 2)


@pytest.mark.parametrize(("name", "kind"), [("rebel", "REBEL"), ("a-star-po", "AStarPO")])
def test_the_share_of_the_target_that_is_explained(name, kind):
    import tril_gym.agents as agents

    settings = NUMBERS | {"epochs": 1, "minibatch_size": 16}
    one, many = (
        getattr(agents, kind)(
            toy_policy(dtype=torch.float64),
            toy_envs(16),
            getattr(agents, f"{kind}Config")(**settings | {"epochs": epochs}),
        )
        for epochs in (1, 8)
    )
    (first,), (later,) = history(one, 1), history(many, 1)
    assert first["regression/r2"] == pytest.approx(0, abs=1e-9)  # at π_old, which is π_ref, nothing is explained
    assert later["regression/r2"] == pytest.approx(1 - later["policy/loss"] / later["regression/target"])
    assert later["regression/r2"] != first["regression/r2"]
