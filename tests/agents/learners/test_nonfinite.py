"""Losses, gradients and rewards that are not finite stop the training before the step, in every learner."""

import math

import pytest
import torch
from doubles import OneToken, foreign_envs, policy_of, toy_envs, toy_policy

from tril_gym.agents import BC, GAIL, PPO, BCConfig, GAILConfig, PPOConfig, PPOPlusPlus, PPOPlusPlusConfig
from tril_gym.agents.learners.nonfinite import NonFiniteError, StepGuard


def agent_of(name, **numbers):
    numbers = {"minibatch_size": 4, "epochs": 1} | numbers
    envs, policy = toy_envs(8), toy_policy()
    if name == "ppo":
        return PPO(policy, envs, PPOConfig(**numbers))
    if name == "shared critic":
        return PPO(policy, envs, PPOConfig(critic="shared", **numbers))
    if name == "ppo-pp":
        return PPOPlusPlus(policy, OneToken(3), envs, PPOPlusPlusConfig(**numbers))
    if name == "gail":
        return GAIL(policy, envs, GAILConfig(**numbers))
    return BC(policy, envs, BCConfig(**numbers))


def weights(agent):
    return [weight.detach().clone() for weight in agent.policy.parameters()]


def poison(monkeypatch, calls):
    """Make the gradient norm NaN in some calls of clipping, counted from 1."""
    clip, numbers = torch.nn.utils.clip_grad_norm_, iter(range(1, 1000))

    def poisoned(parameters, *args):
        norm = clip(parameters, *args)
        return norm * math.nan if next(numbers) in calls else norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", poisoned)


NAMES = ["ppo", "shared critic", "ppo-pp", "gail", "bc"]


@pytest.mark.parametrize("name", NAMES)
def test_the_first_step_is_not_taken(name, monkeypatch):
    agent = agent_of(name)
    before = weights(agent)
    poison(monkeypatch, {1})
    with pytest.raises(NonFiniteError, match=r"grad_norm/\w+ is nan before an optimizer step.*skip_nonfinite"):
        agent.learn(1)
    assert all(torch.equal(one, other) for one, other in zip(before, weights(agent), strict=True))
    assert (agent.iteration, agent.is_whole) == (0, False)


@pytest.mark.parametrize("name", NAMES)
def test_a_single_step_can_be_skipped(name, monkeypatch):
    agent, reports = agent_of(name, skip_nonfinite=1), []
    poison(monkeypatch, {1})
    agent.learn(2, callbacks=[reports.append])
    assert all(math.isfinite(value) for report in reports for value in report.metrics.values())
    assert [agent.iteration, agent.is_whole] == [2, True]
    assert all(bool(weight.isfinite().all()) for weight in agent.policy.parameters())
    if name != "gail":  # whose discriminator has a guard of its own
        assert [report.metrics["steps/skipped"] for report in reports] == [1, 0]


def test_weights_that_are_not_finite_raise(monkeypatch):
    """A negative control of the patched norms: a NaN that begins in the loss itself."""
    agent = agent_of("bc")
    with torch.no_grad():
        next(iter(agent.policy.parameters())).fill_(math.nan)
    with pytest.raises(NonFiniteError, match="policy/loss is nan"):
        agent.learn(1)


def test_more_skips_than_allowed_raise():
    guard = StepGuard(2)
    for figures in ({"loss": math.nan}, {"loss": 1.0}, {"loss": math.inf}, {"norm": -math.inf}):
        guard.allows(figures)
    assert (guard.in_row, guard.skipped_since_last()) == (2, {"steps/skipped": 3})
    again = StepGuard(2)
    again.load_state_dict(guard.state_dict())  # a resumed run continues to count
    with pytest.raises(NonFiniteError, match="loss is nan, norm is inf before an optimizer step, after 2 skipped"):
        again.allows({"loss": math.nan, "norm": math.inf, "other": 0.0})
    assert StepGuard(0).skipped_since_last() == {}


def test_a_reward_that_is_not_finite_raises(monkeypatch):
    envs = foreign_envs(4)
    monkeypatch.setattr(type(envs.envs[0]), "reward_of", staticmethod(lambda token, t: math.inf))
    agent = PPO(policy_of(vocab_size=envs.metadata["text"]["vocab_size"]), envs, PPOConfig())
    state = agent.generator.get_state()
    with pytest.raises(NonFiniteError, match=r"paid inf for text 0"):
        agent.learn(1)
    assert agent.is_whole  # nothing was learned from it: the agent may be saved
    assert torch.equal(agent.generator.get_state(), state)
