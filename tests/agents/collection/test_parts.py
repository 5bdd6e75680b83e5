"""Plans in parts: groups that several actors write, and texts of others that the policy learns from."""

from dataclasses import replace

import pytest
import torch
from doubles import OneToken, generator, history, toy_envs, toy_plan, toy_policy

from tril_gym.agents import BC, GRPO, RAFT, BCConfig, GRPOConfig, Guide, Plan, RAFTConfig, collect
from tril_gym.functional.policy_losses import shaped_loss
from tril_gym.utils.profiler import Timer


def texts_of(plan, *, num_envs=12, episodes=12):
    return collect(toy_envs(num_envs), plan, episodes=episodes, generator=generator(3))


def weights(agent):
    return torch.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()])


@pytest.mark.parametrize("num_envs", [12, 5])
def test_a_plan_in_parts_of_one_actor_is_the_undivided_plan(num_envs):
    whole = replace(toy_plan(), texts_per_prompt=4)
    parts = replace(whole, texts_per_prompt=3, parts=((whole, 1),))
    one, other = texts_of(whole, num_envs=num_envs), texts_of(parts, num_envs=num_envs)
    torch.testing.assert_close(one.old_logprobs, other.old_logprobs, rtol=0, atol=1e-9)  # other batches round otherwise
    for name in ("tokens", "is_rollin", "rewards", "examples", "group"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    other_actor = texts_of(replace(whole, texts_per_prompt=3, parts=((Plan(rollout=OneToken(5)), 1),)))
    assert not torch.equal(one.tokens, other_actor.tokens)  # control
    assert torch.equal(one.examples, other_actor.examples)


def test_each_part_writes_its_texts_of_each_group():
    given = Plan(rollout=OneToken(7), is_given=True)
    texts = texts_of(Plan(rollout=OneToken(5), texts_per_prompt=2, parts=((Plan(rollout=OneToken(6)), 1), (given, 1))))
    assert texts.tokens[:, 0].tolist() == [5, 5, 6, 7] * 3
    assert texts.group.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert texts.given.tolist() == [False, False, False, True] * 3
    assert len(texts.own) == 9
    assert not texts.wrote[3].any()
    assert texts.learn[3].all()
    with pytest.raises(ValueError, match="a multiple of texts_per_prompt, 4, got 6"):
        texts_of(Plan(rollout=OneToken(5), texts_per_prompt=3, parts=((given, 1),)), episodes=6)
    with pytest.raises(ValueError, match="parts of a plan must have its learn_on"):
        Plan(rollout=OneToken(5), parts=((Plan(rollout=OneToken(6), learn_on="rollin"), 1),))


@pytest.mark.parametrize("share", [True, False])
def test_a_part_shares_its_own_rollins(share):
    part = replace(toy_plan(1.0), share_rollin=share)
    texts = texts_of(Plan(rollout=OneToken(5), parts=((part, 2),)))
    rollins = torch.where(texts.is_rollin, texts.tokens, 0).view(4, 3, -1)
    assert not rollins[:, 0].any()  # the plan itself has none
    assert rollins[:, 1:].any()
    assert torch.equal(rollins[:, 1], rollins[:, 2]) == share


def test_an_actor_sees_which_text_of_its_part_it_writes():
    class Seeing(OneToken):
        def start(self, texts, infos, layout):
            self.members = [info["member"] for info in infos]
            return super().start(texts, infos, layout)

    other = Seeing(6)
    texts_of(Plan(rollout=OneToken(5), texts_per_prompt=2, parts=((Plan(rollout=other), 2),)))
    assert other.members == [0, 1] * 3


def test_the_loss_of_given_texts_by_hand():
    # π = (.5, .02), γ = .1, A = 2: −2 (.5/.6 + .02/.12) = −2; f' = γ/(π+γ)² is larger at the improbable token.
    logprobs = torch.tensor([[0.5, 0.02, 0.3]], dtype=torch.float64).log().requires_grad_()
    learn = torch.tensor([[True, True, False]])
    loss = shaped_loss(logprobs, torch.full((1, 3), 2.0, dtype=torch.float64), learn, shaping=0.1, count=1)
    assert loss.item() == pytest.approx(-2.0)
    loss.backward()
    by_probability = -logprobs.grad / torch.tensor([[0.5, 0.02, 0.3]], dtype=torch.float64)
    assert by_probability[0].tolist() == pytest.approx([2 * 0.1 / 0.6**2, 2 * 0.1 / 0.12**2, 0])


def luffy(**numbers):
    settings = {"episodes_per_iteration": 16, "learning_rate": 1e-3, "epochs": 1, "check_model": False}
    config = GRPOConfig(**settings | {"given_texts": 1, "minibatch_size": 16} | numbers)
    return GRPO(toy_policy(dtype=torch.float64), toy_envs(16), config)


def test_no_kl_is_measured_on_texts_of_others():
    # At the first iteration the policy is the reference policy: the KL of its own texts is 0, and the paid one, too.
    agent = luffy(kl_coef=1.0)
    (row,) = history(agent, 1)
    assert row["kl"] == pytest.approx(0, abs=1e-9)
    assert row["reward/given"] == 1.0
    assert row["reward/mean"] == pytest.approx(0.75 * row["reward/policy_alone"] + 0.25)
    rewards = agent.learner.experience.rewards
    assert rewards[3::4].tolist() == pytest.approx([1.0] * 4)
    given = agent.learner.experience.given
    assert given[3::4].any(1).all()
    assert not given[:3].any()
    assert abs(row["policy/ratio_error"]) < 1e-9


def test_the_kl_is_the_mean_over_the_policys_own_texts():
    agent = luffy(learning_rate=1e-2)
    history(agent, 1)
    texts = agent.learner.credit.add_reference_and_values(
        agent.batches.next(agent, agent.plan(1), Timer()).learned, None
    )
    drift = (texts.old_logprobs - texts.ref_logprobs).where(texts.is_token, 0.0).sum(1)
    own = float(drift[~texts.given].mean())
    assert agent.learner._kl(texts, agent.generator)["kl"] == pytest.approx(own)
    assert abs(own - float(drift[~texts.given].sum()) / 16) > 1e-3  # control: over all texts


def test_references_of_a_group_are_learned():
    agent, alone = luffy(epochs=4), luffy(epochs=4, given_texts=0)
    probe = texts_of(Plan(rollout=Guide.references()))

    def likelihood(agent):
        with torch.no_grad():
            return float(agent.policy.token_logprobs(probe.texts, agent.layout).logprobs[probe.is_token].mean())

    before = likelihood(agent)
    history(agent, 3), history(alone, 3)
    gain, other = likelihood(agent) - before, likelihood(alone) - before
    assert gain > 0.5
    assert other < 0.75 * gain, (gain, other)  # control: own texts alone


def test_imitation_of_the_best_is_behaviour_cloning_where_references_are_best():
    numbers = {"learning_rate": 1e-3, "epochs": 1, "minibatch_size": 8, "check_model": False}
    envs, policy = toy_envs(16), toy_policy(dtype=torch.float64)
    raft = RAFT(policy, envs, RAFTConfig(given_texts=1, texts_per_prompt=2, episodes_per_iteration=16, **numbers))
    before = weights(raft)
    (row,) = history(raft, 1)
    assert row["reward/given"] == 1.0 > row["reward/policy_alone"]
    references = raft.learner.experience.texts
    cloned = BC(toy_policy(dtype=torch.float64), envs, BCConfig(**numbers))
    assert torch.equal(weights(cloned), before)
    cloned.learner.step(references)
    torch.testing.assert_close(weights(raft), weights(cloned), rtol=0, atol=1e-9)
    assert not torch.equal(weights(raft), before)


def test_groups_that_the_policy_does_not_write_are_refused():
    with pytest.raises(ValueError, match=r"given_texts must be below texts_per_prompt, 4, .* got 4"):
        GRPOConfig(given_texts=4)
    with pytest.raises(ValueError, match="given_texts must be below texts_per_prompt"):
        RAFTConfig(given_texts=5)
